//! What the playground prints once it is up: lines to try.

use std::time::Duration;

use super::layout::Region;
use super::place::State;
use crate::args::Level;
use crate::output;

/// The table of regions and the lines to try, for a playground with this master.
pub(crate) fn text(state: &State, master: Region, took: Duration) -> String {
    let ports = state.ports();
    let [near, far] = nearest_first(state, master);
    let (at_master, at_near) = (ports.resp(master), ports.resp(near));
    let (master_admin, port) = (ports.admin(master), at_master.port);
    let (orphan, how) = match state.level {
        Level::Local => (
            format!("{master} acknowledges it: level local"),
            "--force\n      says what may be lost, and asks for the new term",
        ),
        Level::Majority => {
            (format!("{master} answers with an error after 5 s: level majority"), "--yes")
        }
    };
    let mut table = output::table(&["region", "role", "redis", "admin", "round trip ms"], 4);
    for region in Region::ALL {
        let role = if region == master { "master" } else { "slave" };
        let (resp, admin) = (ports.resp(region).to_string(), ports.admin(region).to_string());
        let round_trip_ms = 2.0 * state.links.one_way_ms(master, region);
        let row = [region.name(), role, &resp, &admin, &format!("{round_trip_ms}")];
        table.add_row(row);
    }
    format!(
        "\
Three regions are up, ready in {:.1} s.
{table}
{}A write, the read in another region, and how late such reads are:
  kv --server {at_master} set greeting hello
  kv --server {at_near} get greeting
  kv playground lag
  redis-cli -p {port} hset user:1 name Ada city London

Cut a link, write, look, make it whole:
  kv playground cut {master} {far}
  kv --server {at_master} set greeting 'hello again'
  kv playground status
  kv playground heal

Lose the region of the master with a write that nobody else has, and go on without it:
  kv playground cut {master} {near}
  kv playground cut {master} {far}
  kv --server {at_master} set orphan 'only {master} has this'
      {orphan}
  kv playground kill {master}
  kv playground promote {near} {how}
  kv --server {at_near} set greeting 'from {near}'

Take the old master back; what only it had is exported, not lost:
  kv playground heal
  kv playground start {master}
  kv playground status
  kv --admin {master_admin} log parted list

Ctrl-C ends all of it.",
        took.as_secs_f64(),
        second_terminal(),
    )
}

/// The other regions, the nearest to the master first.
fn nearest_first(state: &State, master: Region) -> [Region; 2] {
    let mut others = master.others();
    // There are three regions.
    let (a, b) = (others.next().unwrap_or(master), others.next().unwrap_or(master));
    let distance = |region| state.links.one_way_ms(master, region);
    if distance(b) < distance(a) { [b, a] } else { [a, b] }
}

/// Where to type what follows, and how this program is called `kv` there.
fn second_terminal() -> String {
    let called = std::env::args_os().next().unwrap_or_default();
    match std::env::current_exe() {
        Ok(program) if called.as_encoded_bytes().contains(&b'/') => {
            let program = output::for_line(program.as_os_str().as_encoded_bytes());
            format!("In a second terminal, after\n  alias kv='{program}'\n\n")
        }
        _ => "In a second terminal:\n\n".to_owned(),
    }
}
