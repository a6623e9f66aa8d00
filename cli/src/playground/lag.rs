//! `kv playground lag`: how late a write at the master is read in the other regions, as a client
//! sees it. Everything is timed by this one process, so no clocks have to agree.

use std::time::Duration;

use serde_json::{Value as Json, json};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use super::NODE_TIMEOUT;
use super::layout::Region;
use super::place::State;
use crate::admin::Admin;
use crate::args::{Format, Lag, ServerAddress};
use crate::cluster::Replication;
use crate::connection::Connection;
use crate::failure::Failure;
use crate::output;

/// The key that is written. It stays.
const KEY: &str = "playground:lag";
/// A write that is not read after so long counts as not seen.
const UNSEEN: Duration = Duration::from_secs(5);

/// What was measured of a region, milliseconds.
struct Measured {
    region: Region,
    one_way_ms: f64,
    /// Of the writes that were read, in ascending order.
    late_ms: Vec<f64>,
    unseen: usize,
}

/// A connection that reads in a region.
struct Reader {
    /// Its region's place among those measured.
    index: usize,
    address: ServerAddress,
    connection: Connection,
}

/// Writes at the master, reads everywhere else, prints how late.
///
/// # Errors
/// There is no master, or it fails. Regions that cannot be reached are told of and left out.
pub(crate) async fn lag(state: &State, settings: &Lag, format: Format) -> Result<(), Failure> {
    let (master, term) = find_master(state).await?;
    let mut writer = Connection::to(&state.ports().resp(master), UNSEEN).await?;
    let mut readers = Vec::new();
    let mut measured = Vec::new();
    for region in master.others() {
        match Reader::connect(measured.len(), state.ports().resp(region)).await {
            Ok(reader) => {
                let one_way_ms = state.links.one_way_ms(master, region);
                readers.push(reader);
                measured.push(Measured { region, one_way_ms, late_ms: Vec::new(), unseen: 0 });
            }
            Err(failure) => output::note(&format!("kv: {region} is left out: {failure}")),
        }
    }
    let mut acked_ms = Vec::new();
    let mut due = interval(Duration::from_millis(settings.interval_ms));
    due.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for number in 0..settings.writes {
        due.tick().await;
        let value = format!("{}-{term}-{number}-{}", std::process::id(), rand::random::<u64>());
        let sent = Instant::now();
        let mut reading = JoinSet::new();
        for reader in readers.drain(..) {
            reading.spawn(reader.read_until(value.clone(), sent));
        }
        writer.call(&["SET", KEY, &value]).await?;
        acked_ms.push(ms(sent.elapsed()));
        while let Some(read) = reading.join_next().await {
            let read =
                read.map_err(|error| Failure::Process(format!("a reader ended: {error}")))?;
            let (reader, late) = read?;
            let measured = &mut measured[reader.index];
            match late {
                Some(late) => measured.late_ms.push(ms(late)),
                None => measured.unseen += 1,
            }
            readers.push(reader);
        }
    }
    acked_ms.sort_by(f64::total_cmp);
    measured.iter_mut().for_each(|measured| measured.late_ms.sort_by(f64::total_cmp));
    match format {
        Format::Json => output::print_json(&as_json(master, &acked_ms, &measured))?,
        Format::Table => output::print_line(&table(master, &acked_ms, &measured))?,
    }
    Ok(())
}

/// The region of the master, and its term. An old one that does not know yet has a smaller term.
async fn find_master(state: &State) -> Result<(Region, u64), Failure> {
    let mut found: Option<(Region, u64)> = None;
    for region in Region::ALL {
        let admin = Admin::at(state.ports().admin(region), NODE_TIMEOUT);
        if let Ok(view) = Replication::ask(&admin).await
            && view.is_master()
            && found.is_none_or(|(_, term)| view.term > term)
        {
            found = Some((region, view.term));
        }
    }
    found.ok_or_else(|| Failure::Unmet("no region has a master: kv playground promote".to_owned()))
}

impl Reader {
    async fn connect(index: usize, address: ServerAddress) -> Result<Self, Failure> {
        let mut connection = Connection::to(&address, UNSEEN).await?;
        connection.call(&["READONLY"]).await?;
        Ok(Self { index, address, connection })
    }

    /// Reads over and over until the value is there; how long that took from when it was sent.
    async fn read_until(
        mut self,
        value: String,
        sent: Instant,
    ) -> Result<(Self, Option<Duration>), Failure> {
        let seen = async {
            loop {
                match self.connection.call(&["GET", KEY]).await {
                    Ok(reply) if reply.as_bytes() == Some(value.as_bytes()) => {
                        return Ok(sent.elapsed());
                    }
                    // A slave that does not serve reads yet has not got the write either.
                    Ok(_) | Err(Failure::Refused(_)) => {}
                    Err(failure) => return Err(failure),
                }
            }
        };
        match timeout(UNSEEN, seen).await {
            Ok(late) => {
                let late = late?;
                Ok((self, Some(late)))
            }
            // A reply may be outstanding on the old connection.
            Err(_) => Ok((Self::connect(self.index, self.address).await?, None)),
        }
    }
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// The value below which this share of the sorted values lies.
fn quantile(sorted: &[f64], share: f64) -> Option<f64> {
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied()
}

fn shown(value: Option<f64>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.2}"))
}

fn table(master: Region, acked_ms: &[f64], measured: &[Measured]) -> String {
    let header = ["", "one way ms", "p50 ms", "p99 ms", "max ms", "writes", "not seen"];
    let mut table = output::table(&header, 1);
    let mut add = |what: String, one_way: String, sorted: &[f64], unseen: usize| {
        let [p50, p99, max] = [0.5, 0.99, 1.0].map(|share| shown(quantile(sorted, share)));
        let writes = sorted.len() + unseen;
        table.add_row([what, one_way, p50, p99, max, writes.to_string(), unseen.to_string()]);
    };
    add(format!("{master}: acknowledged"), "-".to_owned(), acked_ms, 0);
    for Measured { region, one_way_ms, late_ms, unseen } in measured {
        add(format!("{region}: read"), shown(Some(*one_way_ms)), late_ms, *unseen);
    }
    table.to_string()
}

fn as_json(master: Region, acked_ms: &[f64], measured: &[Measured]) -> Json {
    let figures = |sorted: &[f64]| {
        let [p50, p99, max] = [0.5, 0.99, 1.0].map(|share| quantile(sorted, share));
        json!({"p50_ms": p50, "p99_ms": p99, "max_ms": max})
    };
    let regions = measured.iter().map(|Measured { region, one_way_ms, late_ms, unseen }| {
        let mut object = figures(late_ms);
        object["region"] = json!(region);
        object["one_way_ms"] = json!(one_way_ms);
        object["unseen"] = json!(unseen);
        object
    });
    json!({
        "master": master,
        "writes": acked_ms.len(),
        "acknowledged": figures(acked_ms),
        "read": regions.collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_values_that_were_measured() {
        let sorted: Vec<f64> = (1..=200).map(f64::from).collect();
        assert_eq!(quantile(&sorted, 0.5), Some(100.0));
        assert_eq!(quantile(&sorted, 0.99), Some(198.0));
        assert_eq!(quantile(&sorted, 1.0), Some(200.0));
        assert_eq!(quantile(&[7.0], 0.5), Some(7.0));
        assert_eq!(quantile(&[], 0.99), None);
    }
}
