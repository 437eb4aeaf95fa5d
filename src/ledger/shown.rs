//! What the ledger would ask, told without asking anybody.

use super::preset::{self, PresetContext};
use super::rule::Rule;
use super::settings::LedgerSettings;
use super::sql::Dialect;

/// The rules of the presets, and those of the configuration, in their order. Tables are taken to look as documented.
pub fn rules(settings: &LedgerSettings) -> Vec<Rule> {
    let LedgerSettings { presets, rules, token_lifetime, refresh_lifetime, leeway, .. } = settings;
    let dialect = Dialect::of(&settings.database.url).unwrap_or(Dialect::Sqlite);
    let mut context = PresetContext::assumed(dialect, presets, *token_lifetime, *refresh_lifetime, *leeway);
    context.profile = settings.profile.clone();
    let complete = preset::complete(presets);
    complete.iter().flat_map(|preset| preset.rules(&context)).chain(rules.iter().cloned()).collect()
}
