//! The kvd daemon: its command line, its signals, and what its exit code says.
//!
//! Exit codes follow BSD's `sysexits.h`: 0 after a stop that was asked for, 64 for a wrong command
//! line, 65 for damaged data, 70 for a defect, 73 for a directory, lock or address that cannot be
//! had, 74 for a log that cannot be written, 78 for a wrong configuration. A stop that takes too long
//! ends by SIGKILL.

use std::{
    io::{self, BufWriter, Write as _},
    net::SocketAddr,
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use clap::{Args, Parser, Subcommand};
use larder_config::{Config, ConfigError, Durability, LogFormat, Source};
use larder_server::{
    files::Files,
    inspect::{InspectError, Output, Selection, Subject, inspect},
    run::{RunError, directory_code, log_code, run},
};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Says which profile built it: figures of another than release mean nothing.
const VERSION: &str = if cfg!(debug_assertions) {
    concat!(env!("CARGO_PKG_VERSION"), " (debug)")
} else {
    concat!(env!("CARGO_PKG_VERSION"), " (release)")
};

const USAGE: u8 = 64;
const DAMAGED: u8 = 65;
const DEFECT: u8 = 70;
const CANNOT_CREATE: u8 = 73;
const FAILED_IO: u8 = 74;
const CONFIGURATION: u8 = 78;

/// Signals that were heard and not handled yet.
const SIGNALS: usize = 2;
/// After the runtime ended, tasks that still run are left behind after this time.
const RUNTIME_END: Duration = Duration::from_secs(1);

/// The Larder daemon: a durable key-value store that speaks the Redis protocol.
#[derive(Parser)]
#[command(name = "kvd", version = VERSION, args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(flatten)]
    serve: ServeArguments,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Args)]
struct ServeArguments {
    /// The configuration file (TOML); options given here win over it
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The data directory
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Where clients of the Redis protocol connect
    #[arg(long, value_name = "ADDRESS")]
    resp: Option<SocketAddr>,
    /// Where metrics and health checks are answered over HTTP
    #[arg(long, value_name = "ADDRESS")]
    admin: Option<SocketAddr>,
    /// When a write is acknowledged: "fsync" or "interval:<ms>"
    #[arg(long)]
    durability: Option<Durability>,
    /// The form of what is written to the standard error: "text" or "json"
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<LogFormat>,
    /// Print the configuration that would be used, or what is wrong with it, and end
    #[arg(long)]
    check_config: bool,
    /// Print the defaults as a configuration file, and end
    #[arg(long)]
    print_default_config: bool,
}

impl ServeArguments {
    /// Whether the value of this key is from the command line.
    fn gives(&self, key: Option<&str>) -> bool {
        match key {
            Some("admin") => self.admin.is_some(),
            Some("namespace.durability") => self.durability.is_some(),
            Some("resp") => self.resp.is_some(),
            _ => false,
        }
    }
}

#[derive(Subcommand)]
enum Command {
    /// Look into a data directory that no process has open
    Inspect {
        #[command(subcommand)]
        subject: Inspect,
    },
}

#[derive(Subcommand)]
enum Inspect {
    /// The log's records; --from is the first record
    Log(InspectArguments),
    /// The state's rows; --from is the first unit
    State(InspectArguments),
}

#[derive(Args)]
struct InspectArguments {
    /// The data directory
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// How the findings are printed: "table" or "json"
    #[arg(short, long, default_value = "table")]
    output: Output,
    /// Where to begin
    #[arg(long, value_name = "N")]
    from: Option<u64>,
    /// How many to print
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
    /// Check everything, and print a summary
    #[arg(long)]
    verify: bool,
}

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            let code = if error.use_stderr() { USAGE } else { 0 };
            // Where the terminal is gone, the code still says it.
            let _ = error.print();
            return ExitCode::from(code);
        }
    };
    let code = match arguments.command {
        Some(Command::Inspect { subject: Inspect::Log(what) }) => look(Subject::Log, what),
        Some(Command::Inspect { subject: Inspect::State(what) }) => look(Subject::State, what),
        None => serve(&arguments.serve),
    };
    ExitCode::from(code)
}

fn look(subject: Subject, arguments: InspectArguments) -> u8 {
    let InspectArguments { data, output, from, limit, verify } = arguments;
    let mut out = BufWriter::new(io::stdout().lock());
    let selection = Selection { from, limit, verify };
    let looked = inspect(&data, subject, selection, output, &mut out);
    match looked.and_then(|()| Ok(out.flush()?)) {
        Ok(()) => 0,
        // Whoever reads has seen enough.
        Err(InspectError::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => 0,
        Err(error) => {
            complain(&error);
            match &error {
                InspectError::Absent { .. } => CANNOT_CREATE,
                InspectError::Directory(directory) => directory_code(directory),
                InspectError::Log(log) => log_code(log),
                InspectError::State(state) if state.is_io() => FAILED_IO,
                InspectError::Output(_) => FAILED_IO,
                _ => DAMAGED,
            }
        }
    }
}

fn serve(arguments: &ServeArguments) -> u8 {
    if arguments.print_default_config {
        return print_config(&Config::default());
    }
    let config = match effective(arguments) {
        Ok(config) => config,
        Err(error) => {
            complain(&error);
            return CONFIGURATION;
        }
    };
    if arguments.check_config {
        return print_config(&config);
    }
    if let Err(error) = trace(&config) {
        complain(&error);
        return CONFIGURATION;
    }
    abort_on_panic();
    match run_to_the_end(config) {
        Ok(()) => 0,
        Err(Ended::Runtime(error)) => {
            tracing::error!(%error, "the runtime could not be started");
            DEFECT
        }
        Err(Ended::Run(error)) => {
            tracing::error!(error = %Chain(&error), "kvd ends");
            error.exit_code()
        }
    }
}

/// The file, the command line over it, and the checks of both together.
fn effective(arguments: &ServeArguments) -> Result<Config, ConfigError> {
    let source = arguments.config.as_deref().map(Source::read).transpose()?;
    let mut config = source.as_ref().map_or_else(|| Ok(Config::default()), Source::parse)?;
    if let Some(data) = &arguments.data {
        config.data.clone_from(data);
    }
    config.resp = arguments.resp.unwrap_or(config.resp);
    config.admin = arguments.admin.or(config.admin);
    config.namespace.durability = arguments.durability.unwrap_or(config.namespace.durability);
    config.tracing.format = arguments.log_format.unwrap_or(config.tracing.format);
    config.validate().map_err(|error| match source {
        Some(source) if !arguments.gives(error.key()) => source.locate(error),
        _ => error,
    })?;
    Ok(config)
}

fn print_config(config: &Config) -> u8 {
    match config.to_toml() {
        Ok(text) => match io::stdout().write_all(text.as_bytes()) {
            Ok(()) => 0,
            Err(error) => {
                complain(&error);
                FAILED_IO
            }
        },
        Err(error) => {
            complain(&error);
            CONFIGURATION
        }
    }
}

fn trace(config: &Config) -> Result<(), ConfigError> {
    let filter = config.filter()?;
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    match config.tracing.format {
        LogFormat::Json => subscriber.json().init(),
        LogFormat::Text => subscriber.with_ansi(false).init(),
    }
    Ok(())
}

/// A thread that panicked leaves work half done: the process ends, and recovery reads what is on
/// disk. The message is written first, because an abort shows none.
fn abort_on_panic() {
    std::panic::set_hook(Box::new(|panic| {
        let backtrace = std::backtrace::Backtrace::force_capture();
        tracing::error!(%panic, %backtrace, "a defect; kvd ends at once");
        std::process::abort();
    }));
}

enum Ended {
    Run(RunError),
    Runtime(io::Error),
}

fn run_to_the_end(mut config: Config) -> Result<(), Ended> {
    let files = Files::claim(config.max_clients);
    config.max_clients = files.clients;
    // Connections have threads of their own.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Ended::Runtime)?;
    let outcome = runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate()).map_err(Ended::Runtime)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(Ended::Runtime)?;
        let (heard, signals) = mpsc::channel(SIGNALS);
        tokio::spawn(async move {
            loop {
                let name = tokio::select! {
                    _ = terminate.recv() => "SIGTERM",
                    _ = interrupt.recv() => "SIGINT",
                };
                // The first stops, the second kills: a third says no more.
                let _ = heard.try_send(name);
            }
        });
        run(config, files.tables, signals).await.map_err(Ended::Run)
    });
    runtime.shutdown_timeout(RUNTIME_END);
    outcome
}

fn complain(error: &dyn std::error::Error) {
    // Where the standard error is gone, the exit code still says it.
    let _ = writeln!(io::stderr(), "kvd: {}", Chain(error));
}

/// An error with its causes, unless it names them itself.
struct Chain<'a>(&'a dyn std::error::Error);

impl std::fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut text = self.0.to_string();
        let mut next = self.0.source();
        while let Some(cause) = next {
            let cause_text = cause.to_string();
            if !text.contains(&cause_text) {
                text.push_str(": ");
                text.push_str(&cause_text);
            }
            next = cause.source();
        }
        f.write_str(&text)
    }
}
