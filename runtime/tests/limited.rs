//! The program where the system grants it only a few threads, as in a container with a limit on processes.

use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

/// The program as a user of its own, who may have so many threads; root is not bound by the limit. `None` where that cannot be had.
pub fn sterna(threads: usize) -> Option<Command> {
    // The limit counts all threads of a user: no other process, also of a test beside this one, may have this one's.
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let user = 100_000 + std::process::id() % 1_000_000 * 100 + NEXT.fetch_add(1, Ordering::Relaxed);
    let limited = |program: &str| {
        let mut command = Command::new("prlimit");
        command.arg(format!("--nproc={threads}")).arg(program).uid(user);
        command.env_clear().stdin(Stdio::null());
        command
    };
    let mut probe = limited(env!("CARGO_BIN_EXE_sterna"));
    probe.arg("--version").stdout(Stdio::null()).stderr(Stdio::null());
    if !probe.status().is_ok_and(|status| status.success()) {
        println!("SKIP: only root, with prlimit, can start the program as another user with a limit on threads");
        return None;
    }
    Some(limited(env!("CARGO_BIN_EXE_sterna")))
}
