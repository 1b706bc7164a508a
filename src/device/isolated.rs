//! Runs work that a driver may break in a process of its own. A driver that hangs, crashes or panics then
//! costs an answer, not the program.

use serde::Serialize;
use serde::de::DeserializeOwned;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Instant;

/// Work that was started.
pub enum Started<T> {
    /// In a child process.
    #[cfg(target_os = "linux")]
    Process(process::Child),
    /// In a thread, where no process can be forked.
    Thread(Receiver<Result<T, String>>),
}

/// Starts work, in a child process where that is possible: on Linux, while this process has a single thread.
pub fn start<T, F>(work: F) -> Started<T>
where
    T: Serialize + DeserializeOwned + Send + 'static,
    F: FnOnce() -> T + Send + 'static,
{
    #[cfg(target_os = "linux")]
    let work = match process::start(work) {
        Ok(child) => return Started::Process(child),
        Err(work) => work,
    };
    let (answer, answers) = channel();
    std::thread::spawn(move || answer.send(guarded(work)));
    Started::Thread(answers)
}

impl<T: DeserializeOwned> Started<T> {
    /// The result of the work, if there is one before `until`.
    ///
    /// # Errors
    /// In words: the driver hangs, crashed or panicked.
    pub fn wait(self, until: Instant) -> Result<T, String> {
        match self {
            #[cfg(target_os = "linux")]
            Started::Process(child) => {
                let answer = child.wait(until)?;
                let parsed: Result<Result<T, String>, _> = serde_json::from_slice(&answer);
                parsed.unwrap_or_else(|e| Err(format!("the check of the driver ended early: {e}")))
            }
            Started::Thread(answers) => match answers
                .recv_timeout(until.saturating_duration_since(Instant::now()))
            {
                Ok(answer) => answer,
                Err(RecvTimeoutError::Timeout) => Err(hangs()),
                Err(RecvTimeoutError::Disconnected) => Err("the check of the driver ended early".to_owned()),
            },
        }
    }
}

fn hangs() -> String {
    "the driver does not answer".to_owned()
}

/// The result of work, or the message of its panic.
fn guarded<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|payload| {
        let text = payload.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or("no message");
        format!("the check of the driver panicked: {text}")
    })
}

#[cfg(target_os = "linux")]
#[allow(unsafe_code, reason = "forks, and reads from the child through a pipe")]
mod process {
    use super::{Instant, Serialize, guarded, hangs};
    use std::fs::File;
    use std::io::{Read, Write};
    use std::os::fd::{AsRawFd, FromRawFd};
    use std::time::Duration;

    /// A child process, and the pipe that it writes its answer to.
    pub struct Child {
        id: libc::pid_t,
        answer: File,
    }

    /// Starts a child process that does the work, or returns the work.
    pub fn start<T: Serialize, F: FnOnce() -> T>(work: F) -> Result<Child, F> {
        // A child has only the thread that forked: locks of the others would stay locked.
        let threads = std::fs::read_dir("/proc/self/task").map_or(usize::MAX, Iterator::count);
        let mut ends = [0; 2];
        // SAFETY: there is room for two descriptors.
        if threads != 1 || unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) } != 0 {
            return Err(work);
        }
        // SAFETY: both descriptors were just made, and belong to nothing else.
        let (answer, mut to) = unsafe { (File::from_raw_fd(ends[0]), File::from_raw_fd(ends[1])) };
        // SAFETY: this process has one thread, so the child may do whatever this process may.
        match unsafe { libc::fork() } {
            -1 => Err(work),
            0 => {
                drop(answer);
                // The message of a panic is a part of the answer.
                std::panic::set_hook(Box::new(|_| {}));
                let done = serde_json::to_vec(&guarded(work)).unwrap_or_default();
                let written = to.write_all(&done).is_ok();
                // SAFETY: ends the child without handlers of libraries, which belong to the parent.
                unsafe { libc::_exit(i32::from(!written)) }
            }
            id => Ok(Child { id, answer }),
        }
    }

    impl Child {
        /// The child's answer, if it is whole before `until`. The child is gone afterwards.
        pub fn wait(mut self, until: Instant) -> Result<Vec<u8>, String> {
            let mut all = Vec::new();
            let mut part = [0; 1 << 16];
            loop {
                let left = until.saturating_duration_since(Instant::now()).min(Duration::from_secs(3600));
                let mut ready =
                    libc::pollfd { fd: self.answer.as_raw_fd(), events: libc::POLLIN, revents: 0 };
                // SAFETY: one descriptor, which is open.
                let found = unsafe { libc::poll(&mut ready, 1, left.as_millis() as i32) };
                if found == 0 {
                    // SAFETY: the child is ours and was not waited for.
                    unsafe { libc::kill(self.id, libc::SIGKILL) };
                    self.reap(libc::WNOHANG);
                    return Err(hangs());
                }
                match self.answer.read(&mut part) {
                    Ok(0) => break,
                    Ok(n) => all.extend_from_slice(&part[..n]),
                    Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                    Err(_) => break,
                }
            }
            let status = self.reap(0);
            if libc::WIFSIGNALED(status) {
                let signal = libc::WTERMSIG(status);
                return Err(format!("the driver crashed (signal {signal}{})", name(signal)));
            }
            Ok(all)
        }

        fn reap(&self, options: i32) -> i32 {
            let mut status = 0;
            // SAFETY: the child is ours; there is room for its status.
            unsafe { libc::waitpid(self.id, &mut status, options) };
            status
        }
    }

    fn name(signal: i32) -> &'static str {
        match signal {
            libc::SIGSEGV => ", SIGSEGV",
            libc::SIGABRT => ", SIGABRT",
            libc::SIGBUS => ", SIGBUS",
            libc::SIGILL => ", SIGILL",
            libc::SIGFPE => ", SIGFPE",
            _ => "",
        }
    }
}
