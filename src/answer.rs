//! A verdict as HTTP.
