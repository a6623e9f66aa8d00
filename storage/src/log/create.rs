//! Making a log of a given identity: a follower's, which continues what another node has written.

use std::{io, path::Path};

use larder_types::SequenceNumber;

use super::{
    error::LogError,
    format::{Header, segment_name},
    survey::Survey,
};
use crate::fs::{Fs, create_dir_durably, write_atomic};

/// The header of the first segment in `dir`, which says whose log it is and what it continues;
/// `None` if there is no log.
///
/// # Errors
/// Headers and footers that cannot be read or do not fit together.
pub fn head(fs: &dyn Fs, dir: &Path) -> Result<Option<Header>, LogError> {
    Ok(Survey::of(fs, dir)?.segments.first().map(|segment| segment.header))
}

/// What a log in a directory covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// The header of the first segment.
    pub head: Header,
    /// The first number without a whole record.
    pub tail: SequenceNumber,
}

/// What the log in `dir` covers; `None` if there is no log. Reads the last segment, and changes
/// nothing.
///
/// # Errors
/// As [`head`], and damage in the last segment.
pub fn extent(fs: &dyn Fs, dir: &Path) -> Result<Option<Extent>, LogError> {
    let survey = Survey::of(fs, dir)?;
    let Some(first) = survey.segments.first() else { return Ok(None) };
    Ok(Some(Extent { head: first.header, tail: survey.tail(fs)? }))
}

/// Makes a log in `dir` that holds no record yet and continues `header.chain`. After a crash it is
/// there whole, or not at all.
///
/// # Errors
/// [`LogError::Io`], also where there is a log already: it is never replaced.
pub fn create(fs: &dyn Fs, dir: &Path, header: &Header) -> Result<(), LogError> {
    create_dir_durably(fs, dir).map_err(LogError::io("make directory", dir))?;
    if !Survey::of(fs, dir)?.segments.is_empty() {
        let exists = io::ErrorKind::AlreadyExists.into();
        return Err(LogError::io("make a log where there is one, in", dir)(exists));
    }
    let name = segment_name(header.chain.next);
    write_atomic(fs, dir, &name, &header.encode())
        .map_err(LogError::io("create log segment", dir.join(&name)))
}
