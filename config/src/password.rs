//! The password of the node: kept as a salted digest, compared in constant time.

use std::{fmt, io::Read as _, os::unix::fs::PermissionsExt as _, path::Path};

use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use crate::ConfigError;

/// A password file longer than this is not one.
const FILE_BYTES_MAX: u64 = 4 << 10;

/// A password that can be checked and not be read.
///
/// The salt is drawn anew in every process, so that a digest in a core dump matches no table. The
/// digest is fast on purpose: AUTH must not be a way to burn the node's time, and the digest never
/// leaves memory.
#[derive(Clone)]
pub struct Password {
    salt: [u8; 16],
    digest: [u8; 32],
}

impl Password {
    /// Of this text.
    pub fn new(text: &[u8]) -> Self {
        let salt = StdRng::from_os_rng().random();
        Self { salt, digest: digest(&salt, text) }
    }

    /// Whether `attempt` is the password. Takes the same time whatever is wrong about it.
    pub fn matches(&self, attempt: &[u8]) -> bool {
        self.digest.ct_eq(&digest(&self.salt, attempt)).into()
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(hidden)")
    }
}

fn digest(salt: &[u8; 16], text: &[u8]) -> [u8; 32] {
    Sha256::new().chain_update(salt).chain_update(text).finalize().into()
}

/// The password in the first line of a file that only its owner can read.
pub(crate) fn read(path: &Path) -> Result<Password, ConfigError> {
    let read = |source| ConfigError::Read { path: path.to_owned(), source };
    let file = std::fs::File::open(path).map_err(read)?;
    let mode = file.metadata().map_err(read)?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(ConfigError::PasswordFileMode { path: path.to_owned(), mode });
    }
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(read)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(ConfigError::invalid(
            "requirepass_file",
            format!("{} is larger than {FILE_BYTES_MAX} bytes", path.display()),
        ));
    }
    let line = bytes.split(|&byte| byte == b'\n').next().unwrap_or_default();
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    if line.is_empty() {
        return Err(ConfigError::invalid(
            "requirepass_file",
            format!("the first line of {} is empty", path.display()),
        ));
    }
    Ok(Password::new(line))
}
