//! `kv ping` and `info`: is the server there, and what does it say about itself.

use std::time::Instant;

use serde_json::{Map, Value as Json, json};

use crate::args::{Format, Target};
use crate::connection::Connection;
use crate::failure::Failure;
use crate::output;

/// Sends PING and prints how long the answer took, connecting not included.
///
/// # Errors
/// What [`Connection`] fails with.
pub(crate) async fn ping(target: &Target) -> Result<(), Failure> {
    let mut connection = Connection::open(target).await?;
    let sent = Instant::now();
    let reply = connection.call(&["PING"]).await?;
    let took_us = sent.elapsed().as_micros();
    let text = output::for_line(reply.as_bytes().unwrap_or_default());
    let server = target.server.to_string();
    match target.output {
        Format::Json => {
            let took_us = u64::try_from(took_us).unwrap_or(u64::MAX);
            let line = json!({"server": server, "reply": text, "latency_us": took_us});
            output::print_json(&line)?;
        }
        Format::Table => {
            let ms = format!("{}.{:03} ms", took_us / 1000, took_us % 1000);
            output::print_line(&format!("{text} from {server} in {ms}"))?;
        }
    }
    Ok(())
}

/// Prints INFO: sections of names and values.
///
/// # Errors
/// There is no such section, and what [`Connection`] fails with.
pub(crate) async fn info(target: &Target, section: Option<&str>) -> Result<(), Failure> {
    let request: Vec<&str> = std::iter::once("INFO").chain(section).collect();
    let reply = Connection::open(target).await?.call(&request).await?;
    let text = String::from_utf8_lossy(reply.as_bytes().unwrap_or_default());
    let sections = sections_of(&text);
    match target.output {
        Format::Json => output::print_json(&as_json(&sections))?,
        Format::Table => {
            for (name, fields) in &sections {
                let mut table = output::table(&[&escaped(name), "value"], 2);
                for (field, value) in fields {
                    table.add_row([escaped(field), escaped(value)]);
                }
                output::print_line(&table.to_string())?;
            }
        }
    }
    match section {
        Some(name) if sections.is_empty() => {
            Err(Failure::Unmet(format!("the server has no section '{name}'")))
        }
        _ => Ok(()),
    }
}

fn escaped(text: &str) -> String {
    output::for_line(text.as_bytes())
}

/// A section's name, and its fields and values in order.
type Section<'a> = (&'a str, Vec<(&'a str, &'a str)>);

/// Reads the form of INFO: `# Section`, then lines of `field:value`.
fn sections_of(text: &str) -> Vec<Section<'_>> {
    let mut sections: Vec<Section<'_>> = Vec::new();
    for line in text.lines() {
        if let Some(name) = line.strip_prefix('#') {
            sections.push((name.trim(), Vec::new()));
        } else if let Some(field) = line.split_once(':') {
            if sections.is_empty() {
                sections.push(("", Vec::new()));
            }
            if let Some((_, fields)) = sections.last_mut() {
                fields.push(field);
            }
        }
    }
    sections
}

/// `{section: {field: value}}`, names in lower case as INFO takes them, all values as text.
fn as_json(sections: &[Section<'_>]) -> Json {
    let mut object = Map::new();
    for (name, fields) in sections {
        let fields: Map<String, Json> =
            fields.iter().map(|(field, value)| ((*field).to_owned(), (*value).into())).collect();
        object.insert(name.to_lowercase(), Json::Object(fields));
    }
    Json::Object(object)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn info_is_read_by_section() {
        let text = "# Server\r\nredis_version:7.0.15\r\n\r\n# Keyspace\r\ndb0:keys=1,ttl=a:b\r\n";
        assert_eq!(
            as_json(&sections_of(text)).to_string(),
            r#"{"keyspace":{"db0":"keys=1,ttl=a:b"},"server":{"redis_version":"7.0.15"}}"#
        );
    }

    #[test]
    fn info_of_another_form_is_no_panic() {
        assert_eq!(sections_of("a:1\n\n::\njunk"), vec![("", vec![("a", "1"), ("", ":")])]);
        assert!(sections_of("").is_empty());
    }
}
