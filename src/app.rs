//! The only file that knows all the others.
