//! Child processes that do not outlive us.
#![allow(unsafe_code)] // prctl between fork and exec

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Lets the process that `command` will start be killed when the calling thread ends, however it ends: no code of ours runs at SIGKILL,
/// nor at a signal without a handler. To be started from a thread that lives as long as the child may, which the one that runs the command does.
pub fn dies_with_us(command: &mut Command) -> &mut Command {
    let parent = std::process::id();
    let ask = move || {
        // SAFETY: this takes a number, and touches no memory of ours.
        if unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) } != 0 {
            return Err(io::Error::last_os_error());
        }
        // A parent that ended before the call above sends nothing any more.
        if std::os::unix::process::parent_id() != parent {
            return Err(io::ErrorKind::NotFound.into());
        }
        Ok(())
    };
    // SAFETY: between fork and exec only what is safe in a signal handler may be done: these are two system calls, and errors that
    // allocate nothing.
    unsafe { command.pre_exec(ask) }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::Stdio;
    use std::thread;

    use super::*;

    #[test]
    fn a_child_ends_with_the_thread_that_started_it() {
        let spawn = || {
            let mut command = Command::new("sleep");
            command.arg("600").stdin(Stdio::null());
            dies_with_us(&mut command).spawn().unwrap()
        };
        let mut orphan = thread::spawn(spawn).join().unwrap();
        assert_eq!(orphan.wait().unwrap().signal(), Some(libc::SIGKILL));
        let mut child = spawn();
        assert_eq!(child.try_wait().unwrap(), None, "this thread is still there");
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
