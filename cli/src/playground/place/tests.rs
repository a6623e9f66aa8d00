//! Who finds which playground, and what becomes of what a killed one left.

use std::os::unix::fs::PermissionsExt as _;

use tempfile::TempDir;

use super::*;
use crate::args::Wan;

fn scratch() -> (TempDir, Place) {
    let scratch = TempDir::with_prefix("larder-place-").unwrap();
    let place = Place::at(scratch.path().join("place")).unwrap();
    (scratch, place)
}

/// A state with data of its own in a directory that has a temporary one's name.
fn state(scratch: &TempDir, temporary: bool) -> State {
    let data = scratch.path().join(format!("{TEMPORARY}test"));
    fs::create_dir(&data).unwrap();
    fs::write(data.join("some"), "data").unwrap();
    State::new(Ports(6380), Level::Local, data, temporary, Links::new(Wan::Emulated))
}

#[tokio::test]
async fn a_playground_is_found_as_long_as_it_runs() {
    let (scratch, place) = scratch();
    let mut state = state(&scratch, false);
    state.links.cut(Region::Shanghai, Region::Tianjin);
    state.set_pid(Region::Tianjin, Some(7));
    let claim = place.clone().claim().await.unwrap();
    assert_eq!(place.running().unwrap_err().exit_code(), 1, "it has told nothing yet");
    claim.publish(&state).unwrap();
    let found = place.running().unwrap();
    assert_eq!(found, state);
    assert_eq!((found.pid_of(Region::Tianjin), found.pid_of(Region::Shanghai)), (Some(7), None));
    drop(claim);
    let gone = place.running().unwrap_err();
    assert_eq!(gone.exit_code(), 1);
    assert!(!gone.to_string().contains("killed"), "{gone}");
    assert!(state.data.join("some").exists(), "data that are not temporary were removed");
}

#[tokio::test]
async fn only_one_runs_at_a_time() {
    let (_scratch, place) = scratch();
    let first = place.clone().claim().await.unwrap();
    let second = place.clone().claim().await.unwrap_err();
    assert!(second.exit_code() == 1 && second.to_string().contains("runs already"), "{second}");
    drop(first);
    place.claim().await.unwrap();
}

#[tokio::test]
async fn what_a_killed_one_left_is_told_and_removed() {
    let (scratch, place) = scratch();
    let state = state(&scratch, true);
    let claim = place.clone().claim().await.unwrap();
    claim.publish(&state).unwrap();
    let left = fs::read(place.state_file()).unwrap();
    drop(claim);
    assert!(!state.data.exists(), "one that ends in order removes its temporary data");

    fs::create_dir(&state.data).unwrap();
    fs::write(place.state_file(), left).unwrap();
    fs::write(place.socket(), "").unwrap();
    let stale = place.running().unwrap_err();
    assert!(stale.exit_code() == 1 && stale.to_string().contains("killed"), "{stale}");
    assert!(!state.data.exists() && !place.socket().exists());
}

#[tokio::test]
async fn data_elsewhere_are_never_removed() {
    let (scratch, place) = scratch();
    let mut state = state(&scratch, true);
    state.data = scratch.path().join("precious");
    fs::create_dir(&state.data).unwrap();
    let claim = place.claim().await.unwrap();
    claim.publish(&state).unwrap();
    drop(claim);
    assert!(state.data.exists());
}

#[tokio::test]
async fn a_state_that_is_none_is_an_error() {
    let (scratch, place) = scratch();
    let _claim = place.clone().claim().await.unwrap();
    let mut later = serde_json::to_value(state(&scratch, false)).unwrap();
    later["version"] = (VERSION + 1).into();
    let large = " ".repeat(STATE_BYTES_MAX as usize + 1);
    for text in ["", "{}", "\u{0}", &later.to_string(), &large] {
        fs::write(place.state_file(), text).unwrap();
        assert_eq!(place.running().unwrap_err().exit_code(), 6, "{}", text.len());
    }
}

#[test]
fn a_place_that_others_can_enter_is_refused() {
    let (_scratch, place) = scratch();
    fs::set_permissions(&place.0, fs::Permissions::from_mode(0o755)).unwrap();
    let refused = Place::at(place.0).unwrap_err();
    assert!(refused.exit_code() == 6 && refused.to_string().contains("only its owner"));
}
