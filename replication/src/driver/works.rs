//! Work on the directory, which may block: one thread does it, in the order in which it was asked
//! for. So the end of one rewind does not remove the marker of the next.

use std::{
    sync::mpsc,
    thread::{self, JoinHandle},
};

use super::DriverError;

type Work = Box<dyn FnOnce() + Send>;

/// The thread, and what it is given. Dropping it waits until all that was asked for is done.
pub(super) struct Works {
    /// `None` once nothing more is asked for.
    asked: Option<mpsc::Sender<Work>>,
    thread: Option<JoinHandle<()>>,
}

impl Works {
    pub(super) fn start() -> Result<Self, DriverError> {
        let (asked, works) = mpsc::channel::<Work>();
        let run = move || works.into_iter().for_each(|work| work());
        let thread = thread::Builder::new().name("directory".into()).spawn(run);
        let thread = thread.map_err(DriverError::Thread)?;
        Ok(Self { asked: Some(asked), thread: Some(thread) })
    }

    /// Has this done after what was asked for before.
    pub(super) fn add(&self, work: impl FnOnce() + Send + 'static) {
        if let Some(asked) = &self.asked {
            // Only a panic ends the thread before, and that ends the process.
            let _ = asked.send(Box::new(work));
        }
    }
}

impl Drop for Works {
    fn drop(&mut self) {
        drop(self.asked.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use larder_storage::{
        Directory, StoreOptions, open,
        rewind::{self, Rewind},
        state::DatabaseOptions,
    };
    use larder_types::SequenceNumber;

    use super::*;

    /// How long something is looked for that must not happen.
    const A_WHILE: Duration = Duration::from_millis(100);

    #[test]
    fn the_end_of_a_rewind_that_takes_long_leaves_the_marker_of_the_next() {
        let root = tempfile::tempdir().unwrap();
        let directory = Arc::new(Directory::open(root.path()).unwrap());
        let database = DatabaseOptions::new(8 << 20, 8 << 20);
        let mut options = StoreOptions::new(database.clone());
        options.reserve_bytes = 0;
        drop(open(&directory, options, 1, 1).unwrap());
        let parting = SequenceNumber::FIRST;
        Rewind::mark(&directory, &database, parting, 1).unwrap();

        let works = Works::start().unwrap();
        let (go_on, may_go_on) = mpsc::channel();
        let (tell, is_marked) = mpsc::channel();
        works.add({
            let directory = directory.clone();
            move || {
                may_go_on.recv().unwrap();
                rewind::end(&directory).unwrap();
            }
        });
        works.add({
            let (directory, database) = (directory.clone(), database.clone());
            move || {
                Rewind::mark(&directory, &database, parting, 2).unwrap();
                tell.send(()).unwrap();
            }
        });
        assert!(is_marked.recv_timeout(A_WHILE).is_err(), "the end of the one before goes on");
        go_on.send(()).unwrap();
        drop(works);
        is_marked.recv().expect("what was asked for is done");
        assert!(Rewind::pending(&directory, &database).unwrap().is_some());
    }
}
