//! Where in a configuration file a key stands.

use std::path::Path;

use toml::de::{DeTable, DeValue};

use crate::{Config, ConfigError, FILE_BYTES_MAX};

/// A configuration file that was read, to say where in it something stands.
pub struct Source {
    name: String,
    text: String,
}

impl Source {
    /// Reads a file.
    ///
    /// # Errors
    /// When it cannot be read, or is too large to be a configuration.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let read = |source| ConfigError::Read { path: path.to_owned(), source };
        let bytes = std::fs::metadata(path).map_err(read)?.len();
        if bytes > FILE_BYTES_MAX {
            return Err(ConfigError::TooLarge { path: path.to_owned(), bytes_max: FILE_BYTES_MAX });
        }
        let text = std::fs::read_to_string(path).map_err(read)?;
        Ok(Self::new(&path.display().to_string(), text))
    }

    /// A text that is called `name` in errors.
    pub fn new(name: &str, text: String) -> Self {
        Self { name: name.to_owned(), text }
    }

    /// Parses it. What it says is not checked yet: the command line may change it.
    ///
    /// # Errors
    /// When it does not parse.
    pub fn parse(&self) -> Result<Config, ConfigError> {
        Config::parse(&self.text, &self.name)
    }

    /// Adds to an error where its key, or else the key's table, stands in this file.
    pub fn locate(&self, error: ConfigError) -> ConfigError {
        let Some(offset) = error.key().and_then(|key| offset_of_key(&self.text, key)) else {
            return error;
        };
        let (line, column) = line_and_column(&self.text, offset);
        ConfigError::Placed { name: self.name.clone(), line, column, error: Box::new(error) }
    }
}

/// Line and column, both from 1, of a byte in a text.
pub(crate) fn line_and_column(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}

/// Where the key stands, or the innermost table or list on the way to it that is there.
fn offset_of_key(text: &str, key: &str) -> Option<usize> {
    let document = DeTable::parse(text).ok()?;
    let mut table = document.get_ref();
    let mut offset = None;
    for part in key.split('.') {
        let Some((name, value)) = table.iter().find(|(name, _)| name.get_ref() == part) else {
            break;
        };
        offset = Some(name.span().start);
        match value.get_ref() {
            DeValue::Table(inner) => table = inner,
            _ => break,
        }
    }
    offset
}

/// The key, with its tables, whose value this byte of the text belongs to.
pub(crate) fn key_of_value(text: &str, offset: usize) -> Option<String> {
    let document = DeTable::parse(text).ok()?;
    key_in(document.get_ref(), offset)
}

fn key_in(table: &DeTable<'_>, offset: usize) -> Option<String> {
    table.iter().find_map(|(name, value)| {
        let inner = |table| Some(format!("{}.{}", name.get_ref(), key_in(table, offset)?));
        match value.get_ref() {
            DeValue::Table(table) => inner(table),
            DeValue::Array(list) if list.iter().any(|item| item.get_ref().is_table()) => {
                list.iter().find_map(|item| inner(item.get_ref().as_table()?))
            }
            _ => value.span().contains(&offset).then(|| name.get_ref().to_string()),
        }
    })
}
