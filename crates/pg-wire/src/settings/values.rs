//! What each connection option was given, by which source, and what it comes to.
//!
//! Nothing is taken from the values before [`Values::refuse_what_is_missing`] has passed them. A
//! value is shown in an error only where it can't be a piece of a password.

use std::collections::BTreeMap;
use std::time::Duration;

use super::keywords::{KEYWORDS, Treatment};
use super::{Inputs, Origin, SettingsError, parse, service};

/// What each option was given, and where.
pub(super) struct Values(BTreeMap<&'static str, (String, Origin)>);

impl Values {
    /// Puts the sources over each other: flags over the connection string over the service over
    /// the environment.
    pub(super) fn collect(inputs: &Inputs<'_>) -> Result<Self, SettingsError> {
        let mut values = environment(inputs);
        let string = match &inputs.conninfo {
            Some(text) => parse(text)?,
            None => Vec::new(),
        };
        let in_string = |wanted: &str| {
            let found = string.iter().rev().find(|(name, _)| *name == wanted);
            found.map(|(_, text)| text.clone())
        };
        let service = in_string("service").or_else(|| (inputs.env)("PGSERVICE"));
        if let Some(service) = service {
            let pairs = service::read(inputs, &service, in_string("servicefile"))?;
            values.extend(pairs.into_iter().map(|(name, text)| (name, (text, Origin::Service))));
        }
        values.extend(string.into_iter().map(|(name, text)| (name, (text, Origin::Conninfo))));
        let flags = &inputs.flags;
        for (name, flag) in [
            ("host", &flags.host),
            ("port", &flags.port),
            ("user", &flags.user),
            ("dbname", &flags.dbname),
            ("application_name", &flags.application_name),
        ] {
            if let Some(text) = flag.as_ref().filter(|text| !text.is_empty()) {
                values.insert(name, (text.clone(), Origin::Flags));
            }
        }
        Ok(Self(values))
    }

    pub(super) fn get(&self, name: &str) -> Option<(&str, Origin)> {
        self.0.get(name).map(|(text, origin)| (text.as_str(), *origin))
    }

    /// The option's text; empty is as good as none.
    pub(super) fn text(&self, name: &str) -> Option<String> {
        self.get(name).filter(|(text, _)| !text.is_empty()).map(|(text, _)| text.to_owned())
    }

    /// Refuses, by name, each option that asks for what isn't done.
    pub(super) fn refuse_what_is_missing(&self) -> Result<(), SettingsError> {
        for keyword in KEYWORDS {
            let Some((text, origin)) = self.get(keyword.name) else { continue };
            if text.contains('\0') {
                return Err(SettingsError::InvalidValue {
                    option: keyword.name,
                    shown: String::new(),
                    origin,
                    expected: "text without NUL bytes",
                });
            }
            let refused =
                |option: String, reason| Err(SettingsError::Refused { option, origin, reason });
            match &keyword.treatment {
                Treatment::Refused(reason) if !text.is_empty() => {
                    return refused(keyword.name.to_owned(), reason);
                }
                Treatment::RefusedValue { value, reason } if text == *value => {
                    return refused(format!("{}={value}", keyword.name), reason);
                }
                Treatment::Values { refused: values, reason, .. } if values.contains(&text) => {
                    return refused(format!("{}={text}", keyword.name), reason);
                }
                Treatment::Values { harmless, .. } if !harmless.contains(&text) => {
                    return Err(SettingsError::InvalidValue {
                        option: keyword.name,
                        shown: format!(": {text:?}"),
                        origin,
                        expected: "one of the values that libpq documents for it",
                    });
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// One of the values that the option may have.
    pub(super) fn choice<T: Copy>(
        &self,
        option: &'static str,
        known: &[(&str, T)],
        expected: &'static str,
    ) -> Result<Option<T>, SettingsError> {
        let Some((text, origin)) = self.get(option) else { return Ok(None) };
        let found = known.iter().find_map(|(name, value)| (*name == text).then_some(*value));
        let shown = format!(": {text:?}");
        found.map(Some).ok_or(SettingsError::InvalidValue { option, shown, origin, expected })
    }

    pub(super) fn integer(&self, name: &'static str) -> Result<Option<i32>, SettingsError> {
        let Some((text, origin)) = self.get(name) else { return Ok(None) };
        text.trim().parse().map(Some).map_err(|_| SettingsError::InvalidValue {
            option: name,
            shown: String::new(),
            origin,
            expected: "an integer",
        })
    }

    /// An integer; zero and less mean none.
    pub(super) fn positive(&self, name: &'static str) -> Result<Option<u32>, SettingsError> {
        let value = self.integer(name)?.and_then(|value| u32::try_from(value).ok());
        Ok(value.filter(|value| *value != 0))
    }

    pub(super) fn seconds(&self, name: &'static str) -> Result<Option<Duration>, SettingsError> {
        Ok(self.positive(name)?.map(|seconds| Duration::from_secs(u64::from(seconds))))
    }
}

fn environment(inputs: &Inputs<'_>) -> BTreeMap<&'static str, (String, Origin)> {
    let mut values = BTreeMap::new();
    for keyword in KEYWORDS {
        if let Some(name) = keyword.env
            && let Some(text) = (inputs.env)(name)
        {
            values.insert(keyword.name, (text, Origin::Environment(name)));
        }
    }
    // What PGSSLMODE was before there was one; libpq still heeds it.
    if let Some(text) = (inputs.env)("PGREQUIRESSL")
        && text.starts_with('1')
    {
        let required = ("require".to_owned(), Origin::Environment("PGREQUIRESSL"));
        values.entry("sslmode").or_insert(required);
    }
    values
}
