//! What is written to the standard error: the directives of `tracing.level`.

use tracing_subscriber::{EnvFilter, filter::LevelFilter};

/// The crates that write, and `larder` for all that begin so. A directive for another would say
/// nothing, and leave the node silent.
const CRATES: [&str; 12] = [
    "axum",
    "hyper",
    "kvd",
    "larder",
    "larder_net",
    "larder_replication",
    "larder_server",
    "larder_storage",
    "quinn",
    "quinn_proto",
    "quinn_udp",
    "rustls",
];

/// The filter that `level` describes: a level, and directives such as `larder_storage=debug`, with
/// commas between them.
///
/// # Errors
/// What is wrong with the first directive that is none.
pub(crate) fn parse(level: &str) -> Result<EnvFilter, String> {
    let directives = level.split(',').filter(|directive| !directive.is_empty());
    if directives.clone().next().is_none() {
        return Err("is empty; write \"info\", or \"off\" for nothing".to_owned());
    }
    for directive in directives {
        let target = directive.split(['=', '[', ':']).next().unwrap_or_default().trim();
        let is_level = directive.trim().parse::<LevelFilter>().is_ok();
        if !is_level && !CRATES.contains(&target) {
            return Err(format!(
                "{directive:?} is neither a level (off, error, warn, info, debug, trace) nor a directive \
                 such as larder_storage=debug for one of {}",
                CRATES.join(", ")
            ));
        }
    }
    EnvFilter::try_new(level).map_err(|error| format!("{level:?}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_and_directives_for_what_writes_are_accepted() {
        let accepted = [
            "info",
            "OFF",
            "warn,larder_storage=debug",
            "larder_net::endpoint=trace",
            "larder",
            "info,",
        ];
        for level in accepted {
            parse(level).expect(level);
        }
    }

    #[test]
    fn what_would_silence_the_node_is_refused() {
        for level in
            ["debugg", "", ",", "foo=bar=baz", "info,larder_stroage=debug", "[[[", "[span]"]
        {
            parse(level).expect_err(level);
        }
        assert!(parse("larder_server=loud").expect_err("no level").contains("larder_server=loud"));
    }
}
