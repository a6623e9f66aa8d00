//! `kv`: the tool for people and scripts. Reads the arguments, runs one command, ends with the exit
//! code that [`failure::Failure`] documents.

mod admin;
mod args;
mod bench;
mod cluster;
mod connection;
mod data;
mod failure;
mod output;
mod playground;
mod status;

use std::io::Write;
use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use args::{Cli, Command, Log};
use failure::Failure;

fn main() -> ExitCode {
    let outcome = match playground::become_node(std::env::args_os()) {
        Some(failure) => Err(failure),
        None => run(Cli::parse()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) if failure.is_closed_pipe() => ExitCode::SUCCESS,
        Err(failure) => {
            // Where nobody reads stderr, the exit code has to do.
            let _ = writeln!(std::io::stderr(), "kv: {failure}");
            ExitCode::from(failure.exit_code())
        }
    }
}

fn run(cli: Cli) -> Result<(), Failure> {
    let target = cli.target;
    match cli.command {
        Command::Completion { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "kv", &mut script);
            Ok(std::io::stdout().lock().write_all(&script)?)
        }
        Command::Bench(settings) => bench::run(&target, &settings),
        command => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(run_command(&target, command))
        }
    }
}

async fn run_command(target: &args::Target, command: Command) -> Result<(), Failure> {
    match command {
        Command::Get(get) => data::get(target, &get).await,
        Command::Set(set) => data::set(target, &set).await,
        Command::Del(del) => data::del(target, &del).await,
        Command::Scan(scan) => data::scan(target, &scan).await,
        Command::Ping => status::ping(target).await,
        Command::Info { section } => status::info(target, section.as_deref()).await,
        Command::Ca(ca) => cluster::ca(target, &ca),
        Command::Replica(replica) => cluster::replica(target, &replica).await,
        Command::Shard(shard) => cluster::shard(target, &shard).await,
        Command::Log(Log::Parted(parted)) => cluster::parted(target, &parted).await,
        Command::Playground(run) => playground::playground(target, &run).await,
        Command::Bench(_) | Command::Completion { .. } => {
            unreachable!("run() has taken the commands without a runtime of one thread")
        }
    }
}
