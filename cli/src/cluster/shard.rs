//! `kv shard`: another master, because the old one is lost or because it is to hand over.

use std::io::{self, IsTerminal, Read as _};

use hyper::Method;
use serde_json::{Value as Json, json};

use super::{Replication, print_done};
use crate::admin::{Admin, Answer};
use crate::args::{Format, Promote, Shard, Target};
use crate::failure::Failure;
use crate::output;

/// A line longer than this is no answer to a question.
const LINE_BYTES_MAX: u64 = 256;

/// Runs `kv shard`.
///
/// # Errors
/// What [`promote`] and [`Admin`] fail with.
pub(crate) async fn shard(target: &Target, shard: &Shard) -> Result<(), Failure> {
    let admin = Admin::of(target)?.patient();
    match shard {
        Shard::Promote(how) => promote(&admin, target.output, how).await,
        Shard::Switchover { node } => {
            let answer = admin.post("/replication/switchover", &json!({"to": node})).await?;
            switched(target.output, node.as_str(), &answer)
        }
    }
}

/// Says who is master now, and fails where that is not who was asked for.
fn switched(format: Format, wanted: &str, answer: &Json) -> Result<(), Failure> {
    let master = answer.get("master").and_then(Json::as_str).unwrap_or(wanted);
    if master != wanted {
        let (master, wanted) = (shown(master), shown(wanted));
        return Err(Failure::Unmet(format!("{master} is master now, and not {wanted}")));
    }
    print_done(format, &format!("{master} is master now"), answer)
}

/// Has a node see to a new master: itself, or the one whose log reaches furthest. What could lose
/// acknowledged writes needs the new term, from `--term` or typed in.
///
/// # Errors
/// It is refused, nobody is there to answer a question, and what [`Admin`] fails with.
pub(crate) async fn promote(admin: &Admin, format: Format, how: &Promote) -> Result<(), Failure> {
    let view = Replication::ask(admin).await?;
    if view.is_master() {
        return Err(Failure::Unmet(format!("{} is the master already", shown(&view.node))));
    }
    let answer = match how.term {
        Some(term) => ask_for_promotion(admin, Some(term)).await?,
        None => {
            if !how.yes && !how.force {
                confirm(&view)?;
            }
            let answer = ask_for_promotion(admin, None).await?;
            match term_to_type(&answer) {
                Some(term) if how.force => {
                    output::note(&format!("kv: {}", answer.refusal()));
                    typed(term)?;
                    ask_for_promotion(admin, Some(term)).await?
                }
                Some(term) => return Err(risky(&answer, term)),
                None => answer,
            }
        }
    };
    let answer = answer.accepted()?;
    // The node whose log reaches furthest, which need not be the one that was asked.
    let master = answer.get("master").and_then(Json::as_str).unwrap_or(&view.node);
    print_done(format, &format!("{} is master now", shown(master)), &answer)
}

async fn ask_for_promotion(admin: &Admin, force_term: Option<u64>) -> Result<Answer, Failure> {
    let body = json!({"force_term": force_term});
    admin.send(Method::POST, "/replication/promote", Some(&body)).await
}

/// The term that a refusal wants to be told, where it is one that can be overruled.
fn term_to_type(answer: &Answer) -> Option<u64> {
    if answer.is_accepted() { None } else { answer.body.get("term").and_then(Json::as_u64) }
}

fn risky(answer: &Answer, term: u64) -> Failure {
    let refusal = answer.refusal();
    Failure::Refused(format!("{refusal}; to do it all the same: --force --term {term}"))
}

fn shown(node: &str) -> String {
    output::for_line(node.as_bytes())
}

fn confirm(view: &Replication) -> Result<(), Failure> {
    let master = view.master.as_deref().map_or("not known".to_owned(), shown);
    let question = format!(
        "Have {} ({}) make a new master? The master it knows: {master}. [y/N]",
        shown(&view.node),
        shown(&view.region)
    );
    match ask(&question, "--yes")?.as_str() {
        "y" | "Y" | "yes" => Ok(()),
        _ => Err(Failure::Unmet("nothing was done".to_owned())),
    }
}

fn typed(term: u64) -> Result<(), Failure> {
    if ask(&format!("Type the new term, {term}, to go on:"), "--term")? == term.to_string() {
        return Ok(());
    }
    Err(Failure::Unmet("that is not the term; nothing was done".to_owned()))
}

/// Asks on the terminal. A script has to give `option` instead.
fn ask(question: &str, option: &str) -> Result<String, Failure> {
    let input = io::stdin();
    if !input.is_terminal() {
        return Err(Failure::Usage(format!("no terminal to ask on: give {option}")));
    }
    output::note(question);
    let mut line = Vec::new();
    let read = |source| Failure::local("cannot read the answer", source);
    for byte in input.lock().take(LINE_BYTES_MAX).bytes() {
        match byte.map_err(read)? {
            b'\n' => break,
            byte => line.push(byte),
        }
    }
    Ok(String::from_utf8_lossy(&line).trim().to_owned())
}
