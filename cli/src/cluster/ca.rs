//! `kv ca`: the certificate authority of a cluster, and the certificates of its nodes.

use std::path::Path;
use std::time::{Duration, SystemTime};

use larder_net::ca::{CERTIFICATE_FILE, Files, KEY_FILE, Validity, init, issue_node};
use larder_types::{ClusterId, NodeId};
use serde_json::json;

use super::print_done;
use crate::args::{Ca, Issue, Target};
use crate::failure::Failure;

/// How long an authority is valid.
const AUTHORITY_DAYS: u32 = 3650;
/// How long the certificates of a playground are valid.
const PLAYGROUND_DAYS: u32 = 365;
const DAY: Duration = Duration::from_secs(86_400);
/// Certificates begin so long ago: a node's clock may be behind.
const BEGUN: Duration = Duration::from_secs(3600);

/// Runs `kv ca`.
///
/// # Errors
/// A file is there already, or files fail.
pub(crate) fn ca(target: &Target, ca: &Ca) -> Result<(), Failure> {
    let (files, more) = match ca {
        Ca::Init { cluster, dir } => {
            (init(dir, cluster, days(AUTHORITY_DAYS)?)?, "keep the key off the nodes")
        }
        Ca::Issue(Issue { node, dir, out, days: valid }) => {
            let more = "the node needs both, and ca.pem";
            (issue_node(dir, node, out, days(*valid)?)?, more)
        }
    };
    let (certificate, key) = (files.certificate.display(), files.key.display());
    let answer = json!({"certificate": certificate.to_string(), "key": key.to_string()});
    print_done(target.output, &format!("wrote {certificate} and {key}; {more}"), &answer)
}

fn days(days: u32) -> Result<Validity, Failure> {
    let from = SystemTime::now()
        .checked_sub(BEGUN)
        .ok_or_else(|| Failure::Usage("the clock of this machine is wrong".to_owned()))?;
    Ok(Validity { from, lasting: BEGUN + DAY * days })
}

/// Makes an authority in a directory that has none.
///
/// # Errors
/// Files fail.
pub(crate) fn ensure_authority(dir: &Path, cluster: &ClusterId) -> Result<(), Failure> {
    if !dir.join(CERTIFICATE_FILE).exists() || !dir.join(KEY_FILE).exists() {
        init(dir, cluster, days(AUTHORITY_DAYS)?)?;
    }
    Ok(())
}

/// Makes a node's certificate in a directory that has none of it.
///
/// # Errors
/// Files fail.
pub(crate) fn ensure_certificate(ca: &Path, node: &NodeId, out: &Path) -> Result<Files, Failure> {
    let files = Files {
        certificate: out.join(format!("{node}.pem")),
        key: out.join(format!("{node}.key")),
    };
    if files.certificate.exists() && files.key.exists() {
        return Ok(files);
    }
    Ok(issue_node(ca, node, out, days(PLAYGROUND_DAYS)?)?)
}
