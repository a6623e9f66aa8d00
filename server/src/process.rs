//! The process as the operating system sees it: memory and processor time, from `/proc`.
//!
//! The kernel makes these texts from its counters: some 20 us, however much memory there is, and no disk
//! is asked. So INFO reads them where it is answered.

/// Clock ticks a second in `/proc/self/stat`: Linux' `USER_HZ`, 100 on every platform it is built
/// for today.
const TICKS_PER_SECOND: f64 = 100.0;

/// What the process takes. Figures that cannot be read are 0.
#[derive(Clone, Copy, Debug, Default)]
pub struct Process {
    /// Memory that is resident.
    pub resident_bytes: u64,
    /// The most that ever was.
    pub resident_peak_bytes: u64,
    /// Processor time spent in the kernel.
    pub system_seconds: f64,
    /// Processor time spent outside of it.
    pub user_seconds: f64,
}

impl Process {
    /// The figures of now.
    pub fn now() -> Self {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
        Self::parse(&status, &stat)
    }

    fn parse(status: &str, stat: &str) -> Self {
        let kibibytes = |name: &str| {
            let value = status.lines().find_map(|line| line.strip_prefix(name))?;
            value.trim().strip_suffix(" kB")?.parse::<u64>().ok()
        };
        // The second field is the program's name in parentheses, which may contain anything: the
        // others are counted from behind it. Times are the 14th and 15th field of the line.
        let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        let seconds = |index: usize| {
            let ticks = fields.split_ascii_whitespace().nth(index)?.parse::<f64>().ok()?;
            Some(ticks / TICKS_PER_SECOND)
        };
        Self {
            resident_bytes: kibibytes("VmRSS:").unwrap_or(0) << 10,
            resident_peak_bytes: kibibytes("VmHWM:").unwrap_or(0) << 10,
            user_seconds: seconds(11).unwrap_or(0.0),
            system_seconds: seconds(12).unwrap_or(0.0),
        }
    }
}

/// How many files and sockets the process has open; 0 where it cannot be known.
pub fn open_files() -> u64 {
    std::fs::read_dir("/proc/self/fd").map_or(0, |files| files.count() as u64)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn figures_are_found_behind_a_hostile_program_name() {
        let status = "Name:\tkvd\nVmHWM:\t    2048 kB\nVmRSS:\t    1024 kB\n";
        let stat = "7 (a ) b) S 1 7 7 0 -1 4194560 1 0 0 0 250 50 0 0 20 0 1 0";
        let process = Process::parse(status, stat);
        assert_eq!((process.resident_bytes, process.resident_peak_bytes), (1 << 20, 2 << 20));
        assert_eq!((process.user_seconds, process.system_seconds), (2.5, 0.5));
    }

    #[test]
    fn this_process_has_memory_and_files() {
        let process = Process::now();
        assert!(process.resident_bytes > 0 && open_files() > 0);
    }

    #[test]
    fn figures_cost_as_little_as_a_few_system_calls() {
        const TIMES: u32 = 1_000;
        let began = Instant::now();
        for _ in 0..TIMES {
            assert!(Process::now().resident_bytes > 0);
        }
        let each = began.elapsed() / TIMES;
        println!("{each:?}");
        // A hundred times what it takes: other work may share the processors.
        assert!(each < Duration::from_millis(1), "{each:?}");
    }

    #[test]
    fn nonsense_counts_as_nothing() {
        let process = Process::parse("VmRSS: x", "nothing");
        assert_eq!((process.resident_bytes, process.user_seconds), (0, 0.0));
    }
}
