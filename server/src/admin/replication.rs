//! The replication of the log over the admin port: how things stand, and what operators ask for.

use axum::{
    body::Bytes,
    extract::{Path, State},
    http::StatusCode,
    response::Response,
};
use larder_replication::core::{MemberState, MemberStatus, Outcome, Refusal, Request, Status};
use larder_types::{NodeId, Position, SequenceNumber};
use serde::Deserialize;
use serde_json::{Value as Json, json};

use super::{
    Started,
    answer::{Refused, answered, body, node_named, of_cluster},
};
use crate::{node::Node, replica::Replica};

/// `GET /replication`.
pub(super) async fn show(State(started): State<Started>) -> Response {
    answered(async {
        let (node, replica) = of_cluster(&started)?;
        let status = replica.driver.status().await.map_err(Refused::ending)?;
        Ok(view(node, replica, &status))
    })
    .await
}

/// How things stand, as the answer has it.
fn view(node: &Node, replica: &Replica, status: &Status) -> Json {
    let marks = node.watermarks();
    let members: Vec<Json> =
        status.members.iter().map(|member| member_view(node, replica, status, member)).collect();
    json!({
        "node": replica.node.id,
        "region": replica.node.region,
        "role": replica.duty().name(),
        "log": status.log.map(|log| log.to_string()),
        "term": status.term,
        "epoch": status.epoch.map(|epoch| epoch.to_string()),
        "tail": marks.appended + 1,
        "durable": marks.durable,
        "committed": seq_of(status.committed),
        "visible": marks.visible,
        "applied": marks.applied,
        "level": status.level,
        "lease_ms_left": status.lease_left.map(millis),
        "lag_ms": replica.driver.staleness().map(millis),
        "master": status.master,
        "members": members,
        "alerts": replica.driver.alerts(),
    })
}

fn member_view(node: &Node, replica: &Replica, status: &Status, member: &MemberStatus) -> Json {
    let resp = if member.node == replica.node.id {
        Some(node.resp)
    } else {
        replica.resp_of(&member.node)
    };
    json!({
        "node": member.node,
        "region": member.region,
        "voter": member.voter,
        "state": state_name(member, status),
        "acked": seq_of(member.acked),
        "lag_records": member.lag_records,
        "lag_bytes": lag_bytes(node, status, member),
        "lag_ms": member.lag.map(millis),
        "session_age_ms": member.session_age.map(millis),
        "full_syncs": member.full_syncs,
        "detached": member.detached,
        "resp": resp,
    })
}

/// Bytes of the log that a member lacks, about.
pub(crate) fn lag_bytes(node: &Node, status: &Status, member: &MemberStatus) -> Option<u64> {
    let last = status.durable.map_or(0, |durable| durable.seq.as_u64());
    let lacks = member.lag_records?;
    let next = SequenceNumber::new(last.saturating_sub(lacks) + 1).filter(|_| lacks > 0);
    Some(next.map_or(0, |next| node.store().map_or(0, |store| store.log().bytes_from(next))))
}

fn state_name(member: &MemberStatus, status: &Status) -> &'static str {
    match member.state {
        MemberState::Disconnected if member.detached => "detached",
        MemberState::Waiting if status.master.as_ref() == Some(&member.node) => "master",
        state => state_word(state),
    }
}

/// The word for a state.
pub(crate) const fn state_word(state: MemberState) -> &'static str {
    match state {
        MemberState::Master => "master",
        MemberState::Streaming => "streaming",
        MemberState::CatchingUp => "catching-up",
        MemberState::Snapshot => "snapshot",
        MemberState::Rewinding => "rewinding",
        MemberState::Disconnected => "disconnected",
        MemberState::Waiting => "waiting",
        MemberState::AwaitingAdmission => "awaiting-admission",
        MemberState::SetAside => "set-aside",
    }
}

fn seq_of(position: Option<Position>) -> u64 {
    position.map_or(0, |at| at.seq.as_u64())
}

fn millis(span: std::time::Duration) -> f64 {
    (span.as_secs_f64() * 1e6).round() / 1e3
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Promote {
    #[serde(default)]
    force_term: Option<u32>,
}

/// `POST /replication/promote`.
pub(super) async fn promote(State(started): State<Started>, bytes: Bytes) -> Response {
    answered(async {
        let Promote { force_term } = body(&bytes)?;
        ask(&started, Request::Promote { force_term }).await
    })
    .await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Switchover {
    to: NodeId,
}

/// `POST /replication/switchover`.
pub(super) async fn switchover(State(started): State<Started>, bytes: Bytes) -> Response {
    answered(async {
        let Switchover { to } = body(&bytes)?;
        ask(&started, Request::Switchover { to }).await
    })
    .await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Add {
    node: NodeId,
    #[serde(default = "yes")]
    voter: bool,
}

const fn yes() -> bool {
    true
}

/// `POST /replication/members`.
pub(super) async fn add(State(started): State<Started>, bytes: Bytes) -> Response {
    answered(async {
        let Add { node, voter } = body(&bytes)?;
        ask(&started, Request::AddReplica { node, voter }).await
    })
    .await
}

/// `DELETE /replication/members/NODE`.
pub(super) async fn remove(State(started): State<Started>, Path(name): Path<String>) -> Response {
    answered(async {
        let node = node_named(&name)?;
        ask(&started, Request::RemoveReplica { node }).await
    })
    .await
}

/// `POST /replication/members/NODE/resync`.
pub(super) async fn resync(State(started): State<Started>, Path(name): Path<String>) -> Response {
    answered(async {
        let node = node_named(&name)?;
        ask(&started, Request::Resync { node }).await
    })
    .await
}

async fn ask(started: &Started, what: Request) -> Result<Json, Refused> {
    let (_, replica) = of_cluster(started)?;
    let outcome = replica.driver.request(what).await.map_err(Refused::ending)?;
    match outcome {
        Ok(Outcome::Promoted { master, term }) => Ok(json!({"master": master, "term": term})),
        Ok(Outcome::SteppedDown) => Ok(json!({"stepped_down": true})),
        Ok(Outcome::Accepted) => Ok(json!({"accepted": true})),
        Err(refusal) => Err(refused(&refusal)),
    }
}

/// A refusal, with what whoever asked needs to go on.
fn refused(refusal: &Refusal) -> Refused {
    let error = refusal.to_string();
    let more = match refusal {
        Refusal::Unsafe { at_risk, unanswered, term } => {
            json!({"error": error, "at_risk": at_risk, "unanswered": unanswered, "term": term})
        }
        Refusal::WrongTerm { expected } => json!({"error": error, "expected_term": expected}),
        Refusal::NotMaster { master } => json!({"error": error, "master": master}),
        _ => json!({"error": error}),
    };
    Refused { status: StatusCode::CONFLICT, body: more }
}
