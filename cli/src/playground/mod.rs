//! `kv playground`: three regions on this machine.
//!
//! The process in the foreground ([`world`]) starts the nodes and ends them. It alone changes what
//! runs and which links are cut; a second terminal finds it through its [`place`], asks it over a
//! socket there ([`control`]), and asks the nodes themselves for what only they know.

mod config;
mod control;
mod guide;
mod lag;
mod layout;
mod links;
mod node;
mod place;
mod status;
mod world;

pub(crate) use layout::Region;
pub(crate) use node::become_node;

use std::time::Duration;

use serde_json::json;

use crate::admin::Admin;
use crate::args::{Format, Order, Playground, Target};
use crate::cluster;
use crate::failure::Failure;
use crate::output;

use control::{Answer, Request};
use place::Place;

/// How long a node of the playground may take to answer at its admin port.
const NODE_TIMEOUT: Duration = Duration::from_secs(2);

/// Runs `kv playground` or one of its orders.
///
/// # Errors
/// No playground runs, or one does already; what a node or the playground refuses; processes that
/// cannot be started.
pub(crate) async fn playground(target: &Target, playground: &Playground) -> Result<(), Failure> {
    let Some(order) = &playground.order else {
        return world::run(&playground.run).await;
    };
    if playground.run.is_given() {
        let text = "options of the playground go before it is started: kv playground OPTIONS";
        return Err(Failure::Usage(text.to_owned()));
    }
    let request = match order {
        Order::Cut { a, b } if a == b => {
            return Err(Failure::Usage(format!("there is no link from {a} to {a}")));
        }
        Order::Cut { a, b } => Request::Cut { between: (*a, *b) },
        Order::Heal => Request::Heal,
        Order::Kill { region } => Request::Kill { region: *region },
        Order::Start { region } => Request::Start { region: *region },
        Order::Stop => Request::Stop,
        Order::Status | Order::Lag(_) | Order::Promote { .. } => {
            return ask_nodes(target, order).await;
        }
    };
    let place = Place::find()?;
    place.running()?;
    match control::ask(&place.socket(), request).await? {
        Answer::Done(_) if request == Request::Stop => {
            place.wait_until_free().await?;
            print_done(target.output, "the playground has ended")
        }
        Answer::Done(text) => print_done(target.output, &text),
        Answer::Refused(text) => Err(Failure::Unmet(text)),
        Answer::Failed(text) => Err(Failure::Process(text)),
    }
}

/// What the nodes know and do by themselves.
async fn ask_nodes(target: &Target, order: &Order) -> Result<(), Failure> {
    let state = Place::find()?.running()?;
    match order {
        Order::Lag(lag) => lag::lag(&state, lag, target.output).await,
        Order::Promote { region, how } => {
            let admin = Admin::at(state.ports().admin(*region), NODE_TIMEOUT).patient();
            cluster::promote(&admin, target.output, how).await
        }
        _ => status::status(&state, target.output).await,
    }
}

fn print_done(format: Format, text: &str) -> Result<(), Failure> {
    match format {
        Format::Table => output::print_line(text)?,
        Format::Json => output::print_json(&json!({"done": text}))?,
    }
    Ok(())
}
