//! What CONFIG SET changes while the node runs, and CONFIG GET answers.

use std::{
    borrow::Cow,
    collections::{BTreeMap, btree_map::Entry},
    net::SocketAddr,
};

use larder_config::{
    Config, ConfigError, Password,
    tuning::{self, Kind},
};
use rustix::process::{Resource, getrlimit};

use crate::{
    command::{CommandError, MATCH_STEPS_MAX, Pattern},
    files::{FILES_BESIDE, Files},
};

/// Shown in place of a password.
const HIDDEN: &str = "(hidden)";
/// Parameters that mean something here, beside those of [`tuning`].
const OWN: [&str; 5] = ["bind", "dir", "maxclients", "port", "requirepass"];
/// The kinds of those of them that cannot be set.
const FIXED: [(&str, Kind); 3] =
    [("bind", Kind::Immutable), ("dir", Kind::Protected), ("port", Kind::Immutable)];

/// The settings at one moment; replaced as a whole.
#[derive(Clone)]
pub struct Settings {
    password: Option<Password>,
    /// Clients that may be connected at once.
    pub clients_max: usize,
    /// The same at the start, by which files were given to tables.
    clients_at_start: usize,
    data: String,
    resp: SocketAddr,
    is_exposed: bool,
    /// Values that were set, by canonical name.
    tuning: BTreeMap<&'static str, String>,
}

/// Why CONFIG SET changed nothing.
#[derive(Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The parameter's name is not known.
    Unknown,
    /// The value does not do, for this reason.
    Value(Cow<'static, str>),
}

impl Settings {
    /// As the configuration says.
    ///
    /// # Errors
    /// When the password's file cannot be used.
    pub fn new(config: &Config) -> Result<Self, ConfigError> {
        let addresses = [Some(config.resp), config.admin];
        Ok(Self {
            password: config.password()?,
            clients_max: config.max_clients,
            clients_at_start: config.max_clients,
            data: config.data.display().to_string(),
            resp: config.resp,
            is_exposed: addresses.iter().flatten().any(|address| !address.ip().is_loopback()),
            tuning: BTreeMap::new(),
        })
    }

    /// Whether clients must authenticate.
    pub const fn is_password_set(&self) -> bool {
        self.password.is_some()
    }

    /// Whether `attempt` is the password; everything is where none is set.
    pub fn admits(&self, attempt: &[u8]) -> bool {
        self.password.as_ref().is_none_or(|password| password.matches(attempt))
    }

    /// The canonical form of a parameter's name, to find out whether two are the same.
    pub fn canonical(name: &str) -> Option<&'static str> {
        let own = OWN.iter().find(|own| own.eq_ignore_ascii_case(name)).copied();
        own.or_else(|| tuning::find(name).map(|(name, _, _)| name))
    }

    /// Why no value of this parameter is accepted, where none is, in Redis' words.
    pub fn fixed(name: &str) -> Option<&'static str> {
        let own = FIXED.into_iter().find(|(own, _)| own.eq_ignore_ascii_case(name));
        let kind = own.map(|(_, kind)| kind).or_else(|| Some(tuning::find(name)?.1));
        kind.and_then(Kind::fixed)
    }

    /// Sets one parameter.
    ///
    /// # Errors
    /// When it is unknown, cannot be set, or not to this value. Nothing is changed then.
    pub fn set(&mut self, name: &str, value: &[u8]) -> Result<(), Refusal> {
        let canonical = Self::canonical(name).ok_or(Refusal::Unknown)?;
        if let Some(reason) = Self::fixed(name) {
            return Err(Refusal::Value(reason.into()));
        }
        match canonical {
            "requirepass" if value.is_empty() && self.is_exposed => Err(Refusal::Value(
                "others can reach the server's address, so that it needs a password".into(),
            )),
            "requirepass" => {
                self.password = (!value.is_empty()).then(|| Password::new(value));
                Ok(())
            }
            "maxclients" => self.set_clients_max(value, getrlimit(Resource::Nofile).current),
            _ => {
                let (name, kind, default) = tuning::find(name).ok_or(Refusal::Unknown)?;
                let current = self.tuning.get(name).map_or(default, String::as_str);
                let value = kind.accept(value, current).map_err(Refusal::Value)?;
                self.tuning.insert(name, value);
                Ok(())
            }
        }
    }

    /// Sets how many clients there may be where the process may open so many files. As many as there
    /// may be already are always accepted.
    fn set_clients_max(&mut self, value: &[u8], files: Option<u64>) -> Result<(), Refusal> {
        let accepted = Kind::Integer(1, u32::MAX.into()).accept(value, "");
        let count = accepted.map_err(Refusal::Value)?.parse().unwrap_or(usize::MAX);
        let fit = files.map_or(u64::MAX, |files| {
            let tables = Files::divided(files, self.clients_at_start).tables;
            files.saturating_sub(FILES_BESIDE + u64::from(tables))
        });
        let fit = usize::try_from(fit).unwrap_or(usize::MAX).max(self.clients_max);
        if count > fit {
            return Err(Refusal::Value(Cow::Owned(format!(
                "The operating system is not able to handle the specified number of clients, try \
                 with {fit}"
            ))));
        }
        self.clients_max = count;
        Ok(())
    }

    /// Name and value of every parameter that one of the patterns matches, each once, as Redis does: a
    /// pattern that is a name is answered as it was written first.
    ///
    /// # Errors
    /// When matching takes more than [`MATCH_STEPS_MAX`] steps.
    pub fn matching(&self, patterns: &[&str]) -> Result<Vec<(String, String)>, CommandError> {
        let mut steps = MATCH_STEPS_MAX;
        let mut found = BTreeMap::new();
        let mut add = |name: &str| {
            if let Entry::Vacant(place) = found.entry(name.to_ascii_lowercase())
                && let Some(value) = self.value(name)
            {
                place.insert((name.to_owned(), value));
            }
        };
        for pattern in patterns {
            if !pattern.contains(['*', '?', '[']) {
                add(pattern);
                continue;
            }
            let matcher = Pattern::new(pattern.as_bytes()).ignoring_case();
            for name in OWN.into_iter().chain(tuning::TUNING.iter().map(|row| row.0)) {
                // Also what looks at no byte of the pattern takes its time.
                steps = steps.checked_sub(1).ok_or(CommandError::TooManySteps)?;
                let matched = matcher.matches_within(name.as_bytes(), &mut steps);
                if matched.ok_or(CommandError::TooManySteps)? {
                    add(name);
                }
            }
        }
        Ok(found.into_values().collect())
    }

    fn value(&self, name: &str) -> Option<String> {
        Some(match Self::canonical(name)? {
            "bind" => self.resp.ip().to_string(),
            "dir" => self.data.clone(),
            "maxclients" => self.clients_max.to_string(),
            "port" => self.resp.port().to_string(),
            "requirepass" if self.is_password_set() => HIDDEN.to_owned(),
            "requirepass" => String::new(),
            _ => {
                let (name, _, default) = tuning::find(name)?;
                self.tuning.get(name).cloned().unwrap_or_else(|| default.to_owned())
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> Settings {
        Settings::new(&Config::default()).expect("the defaults have no password file")
    }

    fn pairs(settings: &Settings, patterns: &[&str]) -> Vec<(String, String)> {
        settings.matching(patterns).expect("few match")
    }

    fn pair(name: &str, value: &str) -> (String, String) {
        (name.to_owned(), value.to_owned())
    }

    #[test]
    fn a_value_that_was_set_is_answered_under_every_name_of_its_parameter() {
        let mut settings = settings();
        settings.set("hash-max-ziplist-entries", b"7").expect("the value is accepted");
        assert_eq!(
            pairs(&settings, &["HASH-MAX-LISTPACK-ENTRIES"]),
            [pair("HASH-MAX-LISTPACK-ENTRIES", "7")]
        );
        assert_eq!(pairs(&settings, &["hash-max-*-entries"]).len(), 2);
        assert!(pairs(&settings, &["no-such-parameter", "no-such-*"]).is_empty());
    }

    #[test]
    fn patterns_that_take_long_to_match_are_refused_however_many_they_are() {
        let (settings, class) = (settings(), format!("*[{}", "x".repeat(4_000)));
        for patterns in [vec![class.as_str(); 3_800], vec!["*"; 1_000_000]] {
            let refused = settings.matching(&patterns);
            assert!(matches!(refused, Err(CommandError::TooManySteps)), "{}", patterns[0]);
        }
        let all = pairs(&settings, &["*"]).len();
        assert_eq!(all, OWN.len() + tuning::TUNING.len());
        assert_eq!(pairs(&settings, &["*", "*a*e*", "[!-~]*"]).len(), all, "each once");
    }

    #[test]
    fn a_parameter_is_answered_once_however_often_and_in_whatever_case_it_is_asked_for() {
        let settings = settings();
        assert_eq!(pairs(&settings, &["Hz", "hz", "HZ", "h?", "hz*"]), [pair("Hz", "10")]);
        assert_eq!(pairs(&settings, &["h?", "HZ"]), [pair("hz", "10")]);
    }

    #[test]
    fn as_many_clients_are_allowed_as_there_may_be_files_and_never_fewer_than_before() {
        let refusal = |fit: usize| {
            let reason = format!(
                "The operating system is not able to handle the specified number of clients, try \
                 with {fit}"
            );
            Err(Refusal::Value(reason.into()))
        };
        let mut settings = settings();
        (settings.clients_max, settings.clients_at_start) = (100, 100);
        for (count, outcome) in [
            ("2880", Ok(())),
            ("2881", refusal(2_880)),
            ("2879", Ok(())),
            ("2880", Ok(())),
            ("100", Ok(())),
        ] {
            assert_eq!(settings.set_clients_max(count.as_bytes(), Some(8_000)), outcome, "{count}");
        }
        for files in [1_123, 500] {
            assert_eq!(settings.set_clients_max(b"101", Some(files)), refusal(100), "{files}");
            assert_eq!(settings.set_clients_max(b"100", Some(files)), Ok(()), "{files}");
        }
        assert_eq!(settings.set_clients_max(b"4294967295", None), Ok(()));
    }

    #[test]
    fn a_password_that_was_set_is_required_and_hidden() {
        let mut settings = settings();
        assert!(settings.admits(b"anything") && !settings.is_password_set());
        settings.set("requirepass", b"secret").expect("the value is accepted");
        assert!(settings.is_password_set() && settings.admits(b"secret"));
        assert!(!settings.admits(b"") && !settings.admits(b"Secret"));
        assert_eq!(pairs(&settings, &["requirepass"]), [pair("requirepass", HIDDEN)]);
        settings.set("requirepass", b"").expect("no one else can reach the address");
        assert!(!settings.is_password_set());
    }

    #[test]
    fn a_password_is_the_bytes_that_were_set_also_where_they_are_no_text() {
        let mut settings = settings();
        settings.set("requirepass", b"\xff\0x").expect("the value is accepted");
        assert!(settings.admits(b"\xff\0x"));
        assert!(!settings.admits(b"\xfe\0x") && !settings.admits("\u{fffd}\0x".as_bytes()));
    }

    #[test]
    fn an_address_that_others_reach_keeps_its_password() {
        let config = Config {
            resp: ([0, 0, 0, 0], 6379).into(),
            requirepass: Some("secret".into()),
            ..Config::default()
        };
        let mut settings = Settings::new(&config).expect("the password is in the configuration");
        assert!(matches!(settings.set("requirepass", b""), Err(Refusal::Value(_))));
        assert!(settings.is_password_set());
    }

    #[test]
    fn what_cannot_be_set_says_why() {
        let mut settings = settings();
        assert_eq!(settings.set("no-such-parameter", b"1"), Err(Refusal::Unknown));
        assert_eq!(
            settings.set("port", b"1"),
            Err(Refusal::Value("can't set immutable config".into()))
        );
        assert_eq!(
            settings.set("dir", b"/"),
            Err(Refusal::Value("can't set protected config".into()))
        );
        assert_eq!(
            settings.set("maxclients", b"0"),
            Err(Refusal::Value("argument must be between 1 and 4294967295 inclusive".into()))
        );
    }
}
