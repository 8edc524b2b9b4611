//! The end of the process, and the way to watch it in tests.
//!
//! I/O failure, a hung disk and a panic on the raft or apply thread end the process (rule 12): systemd starts it
//! again, and what is on disk says where to continue.

/// Exit code after an I/O failure or a disk that hangs (EX_IOERR).
pub const EXIT_IO: i32 = 74;
/// Exit code after a panic on the raft or apply thread (EX_SOFTWARE).
pub const EXIT_PANIC: i32 = 70;

/// Ends the process. A test's implementation may return; the thread that called then ends.
pub trait Fatal: Send + Sync {
    fn exit(&self, code: i32, reason: &str);
}

/// Production's: logs, then exits at once, without destructors.
#[derive(Debug, Default, Clone, Copy)]
pub struct ProcessExit;

impl Fatal for ProcessExit {
    fn exit(&self, code: i32, reason: &str) {
        tracing::error!(code, reason, "the process ends");
        std::process::exit(code);
    }
}
