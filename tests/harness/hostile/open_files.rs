//! The bound on open files, which ten thousand connections need to be high.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises this process's bound on open files to `wanted`; processes started later inherit it.
///
/// # Errors
/// With the reason, where the operating system allows fewer.
pub fn raise_open_files(wanted: u64) -> Result<(), String> {
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|current| current >= wanted) {
        return Ok(());
    }
    // The hard bound may be raised too by who is privileged; otherwise it is what there is.
    let maximum = limit.maximum.map(|maximum| maximum.max(wanted));
    setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum })
        .or_else(|_| {
            setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum: limit.maximum })
        })
        .map_err(|error| {
            format!("{wanted} open files are needed, {limit:?} is allowed: {error} (ulimit -n)")
        })
}
