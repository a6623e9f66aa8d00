//! `kv replica`: who has which part of the log, and who is to have it.

use comfy_table::Table;
use serde_json::json;

use super::{Member, Replication, or_dash, print_done};
use crate::admin::{Admin, segment};
use crate::args::{Format, Replica, Target};
use crate::failure::Failure;
use crate::output;

/// Runs `kv replica`.
///
/// # Errors
/// What [`Admin`] fails with.
pub(crate) async fn replica(target: &Target, replica: &Replica) -> Result<(), Failure> {
    let admin = Admin::of(target)?;
    match replica {
        Replica::List => list(&admin, target.output).await,
        Replica::Add { node, no_vote } => {
            let member = json!({"node": node, "voter": !no_vote});
            let answer = admin.patient().post("/replication/members", &member).await?;
            print_done(target.output, &format!("{node} is a replica now"), &answer)
        }
        Replica::Remove { node } => {
            let path = format!("/replication/members/{}", segment(node.as_str()));
            let answer = admin.patient().delete(&path).await?;
            print_done(target.output, &format!("{node} is no replica any more"), &answer)
        }
        Replica::Resync { node } => {
            let path = format!("/replication/members/{}/resync", segment(node.as_str()));
            let answer = admin.post(&path, &json!({})).await?;
            print_done(target.output, &format!("{node} takes a snapshot"), &answer)
        }
    }
}

async fn list(admin: &Admin, format: Format) -> Result<(), Failure> {
    let answer = admin.get("/replication").await?;
    if format == Format::Json {
        return Ok(output::print_json(&answer)?);
    }
    let view = Replication::read(&answer)?;
    output::print_line(&heading(&view))?;
    output::print_line(&table(&view.members).to_string())?;
    for alert in &view.alerts {
        output::print_line(&format!("alert: {}", escaped(alert)))?;
    }
    Ok(())
}

fn escaped(text: &str) -> String {
    output::for_line(text.as_bytes())
}

/// The node that was asked, on one line.
fn heading(view: &Replication) -> String {
    let Replication { node, region, role, term, level, .. } = view;
    let [tail, durable, committed] = [view.tail, view.durable, view.committed].map(or_dash);
    let mut line = format!(
        "{node} ({region}) is {role}, term {term}, level {level}; tail {tail}, durable {durable}, \
         committed {committed}"
    );
    if let Some(left) = view.lease_ms_left {
        line.push_str(&format!("; lease {left:.0} ms"));
    }
    if let (Some(master), false) = (&view.master, view.is_master()) {
        line.push_str(&format!("; master {master}"));
    }
    escaped(&line)
}

fn table(members: &[Member]) -> Table {
    let header = [
        "node",
        "region",
        "voter",
        "state",
        "detached",
        "lag records",
        "lag bytes",
        "lag ms",
        "session",
        "full syncs",
    ];
    let mut table = output::table(&header, 5);
    for member in members {
        table.add_row([
            escaped(&member.node),
            escaped(&member.region),
            yes(member.voter),
            escaped(&member.state),
            yes(member.detached),
            or_dash(member.lag_records),
            or_dash(member.lag_bytes),
            or_dash(member.lag_ms.map(|ms| format!("{ms:.1}"))),
            or_dash(member.session_age_ms.map(|ms| format!("{:.1} s", ms / 1000.0))),
            member.full_syncs.to_string(),
        ]);
    }
    table
}

fn yes(is_so: bool) -> String {
    if is_so { "yes" } else { "no" }.to_owned()
}
