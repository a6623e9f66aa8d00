//! `kv playground status`: what runs, in which role, and how late.

use serde_json::{Value as Json, json};

use super::NODE_TIMEOUT;
use super::layout::Region;
use super::place::State;
use crate::admin::Admin;
use crate::args::Format;
use crate::cluster::{Replication, or_dash};
use crate::failure::Failure;
use crate::output;

/// A region, as the playground and its own node see it.
struct Seen {
    region: Region,
    pid: Option<u32>,
    /// Why there is no view, where there is none.
    view: Result<Replication, Failure>,
}

/// Prints what runs.
///
/// # Errors
/// Standard output fails. A node that does not answer is shown as such.
pub(crate) async fn status(state: &State, format: Format) -> Result<(), Failure> {
    let mut seen = Vec::new();
    for region in Region::ALL {
        let admin = Admin::at(state.ports().admin(region), NODE_TIMEOUT);
        let view = Replication::ask(&admin).await;
        seen.push(Seen { region, pid: state.pid_of(region), view });
    }
    if format == Format::Json {
        return Ok(output::print_json(&as_json(state, &seen))?);
    }
    output::print_line(&table(state, &seen))?;
    for (a, b) in state.links.cuts() {
        output::print_line(&format!("cut: {a} and {b} do not reach each other"))?;
    }
    for Seen { region, view, .. } in &seen {
        for alert in view.iter().flat_map(|view| &view.alerts) {
            output::print_line(&format!("alert from {region}: {}", escaped(alert)))?;
        }
    }
    Ok(())
}

/// How late a region is, as the master knows.
fn lag_ms(seen: &[Seen], region: Region) -> Option<f64> {
    let views = seen.iter().filter_map(|seen| seen.view.as_ref().ok());
    let master = views.filter(|view| view.is_master()).max_by_key(|view| view.term)?;
    master.members.iter().find(|member| member.node == region.node().as_str())?.lag_ms
}

fn table(state: &State, seen: &[Seen]) -> String {
    let header = ["region", "redis", "admin", "pid", "role", "term", "tail", "committed", "lag ms"];
    let mut table = output::table(&header, 5);
    for Seen { region, pid, view } in seen {
        let (resp, admin) = (state.ports().resp(*region), state.ports().admin(*region));
        let is_down = pid.is_none();
        let pid = or_dash(*pid);
        let mut row = vec![region.to_string(), resp.to_string(), admin.to_string()];
        match view {
            Ok(view) => {
                let numbers = [Some(view.term), view.tail, view.committed].map(or_dash);
                let lag = or_dash(lag_ms(seen, *region).map(|ms| format!("{ms:.1}")));
                row.extend([pid, escaped(&view.role)]);
                row.extend(numbers);
                row.push(lag);
            }
            Err(_) if is_down => row.extend([pid, "down".to_owned()]),
            Err(_) => row.extend([pid, "no answer".to_owned()]),
        }
        table.add_row(row);
    }
    table.to_string()
}

fn escaped(text: &str) -> String {
    output::for_line(text.as_bytes())
}

fn as_json(state: &State, seen: &[Seen]) -> Json {
    let regions = seen.iter().map(|Seen { region, pid, view }| {
        let mut object = json!({
            "region": region,
            "node": region.node(),
            "resp": state.ports().resp(*region).to_string(),
            "admin": state.ports().admin(*region).to_string(),
            "pid": pid,
        });
        match view {
            Ok(view) => {
                object["role"] = view.role.as_str().into();
                object["term"] = view.term.into();
                object["tail"] = view.tail.into();
                object["committed"] = view.committed.into();
                object["lag_ms"] = lag_ms(seen, *region).into();
                object["alerts"] = view.alerts.clone().into();
            }
            Err(failure) => object["error"] = failure.to_string().into(),
        }
        object
    });
    json!({
        "pid": state.pid,
        "level": state.level,
        "data": state.data,
        "regions": regions.collect::<Vec<_>>(),
        "cuts": state.links.cuts().collect::<Vec<_>>(),
    })
}
