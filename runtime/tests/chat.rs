//! The chat of `sterna run`, typed at a pseudo-terminal.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

/// Longer than anything here takes, on any machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// `sterna` at a terminal, and the person in front of it.
struct Terminal {
    sterna: Child,
    keyboard: File,
    screen: Receiver<Vec<u8>>,
    /// What was shown and not yet looked at.
    shown: String,
}

impl Terminal {
    fn open(model: &str, args: &[&str]) -> Terminal {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let size = Winsize {
            ws_row: 40,
            ws_col: 200,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        tcsetwinsize(&master, size).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap();
        let slave = OpenOptions::new()
            .read(true)
            .write(true)
            .open(name.to_str().unwrap())
            .unwrap();
        let stdio = || Stdio::from(slave.try_clone().unwrap());
        let model = Path::new(env!("CARGO_MANIFEST_DIR")).join(model);
        let mut command = Command::new(env!("CARGO_BIN_EXE_sterna"));
        command
            .arg("run")
            .arg(model)
            .args(args)
            .env("TERM", "xterm")
            .env("NO_COLOR", "1");
        let sterna = command.stdin(stdio()).stdout(stdio()).stderr(stdio()).spawn().unwrap();
        let mut master = File::from(master);
        let keyboard = master.try_clone().unwrap();
        let (pieces, screen) = mpsc::channel();
        thread::spawn(move || {
            let mut piece = [0; 4096];
            // An error once the other side is closed.
            while let Ok(n @ 1..) = master.read(&mut piece) {
                if pieces.send(piece[..n].to_vec()).is_err() {
                    return;
                }
            }
        });
        Terminal {
            sterna,
            keyboard,
            screen,
            shown: String::new(),
        }
    }

    fn type_in(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).unwrap();
    }

    /// Waits until `text` is shown; what came before it.
    fn until(&mut self, text: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(at) = self.shown.find(text) {
                let before = self.shown[..at].to_owned();
                self.shown.drain(..at + text.len());
                return before;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            let piece = self.screen.recv_timeout(left);
            let piece = piece.unwrap_or_else(|_| panic!("{text:?} does not come; shown: {:?}", self.shown));
            self.shown.push_str(&String::from_utf8_lossy(&piece));
        }
    }

    /// Waits until something is shown.
    fn until_anything(&mut self) {
        if self.shown.is_empty() {
            let piece = self.screen.recv_timeout(PATIENCE).expect("an answer");
            self.shown.push_str(&String::from_utf8_lossy(&piece));
        }
    }

    fn ends_well(mut self) {
        assert!(self.sterna.wait().unwrap().success());
    }
}

const DEMO: &str = "demo/sterna-demo.gguf";

#[test]
fn a_text_is_continued_and_an_empty_line_goes_on() {
    let mut terminal = Terminal::open(DEMO, &["-n", "5"]);
    terminal.until("A base model");
    terminal.until("> ");
    terminal.type_in("The `Vec` type\r");
    terminal.until("[5 tokens, ");
    terminal.until("cut at its greatest length]");
    terminal.until("> ");
    terminal.type_in("\r");
    terminal.until("[5 tokens, ");
    terminal.until("> ");
    // History, and a new text instead of the rest of the old one.
    terminal.type_in("\x1b[A\r");
    let again = terminal.until("[5 tokens, ");
    assert!(again.contains("The `Vec` type"), "{again:?}");
    terminal.until("> ");
    terminal.type_in("\x04");
    terminal.ends_well();
}

#[test]
fn ctrl_c_stops_the_answer_and_not_the_program() {
    let mut terminal = Terminal::open(DEMO, &["--ignore-eos", "-n", "500"]);
    terminal.until("> ");
    terminal.type_in("fn main() {\r");
    // The echo of what was typed, and the beginning of an answer.
    terminal.until("\r\n");
    terminal.until_anything();
    // What a terminal makes of Ctrl-C while nobody reads keys.
    kill_process(Pid::from_child(&terminal.sterna), Signal::INT).unwrap();
    terminal.until("stopped]");
    terminal.until("> ");
    // At the prompt the key only says how to leave, and what is typed next is answered.
    terminal.type_in("\x03");
    terminal.until("/bye");
    terminal.until("> ");
    terminal.type_in("/set max_tokens 3\r");
    terminal.until("max_tokens  3");
    terminal.until("> ");
    terminal.type_in("use std\r");
    terminal.until("[3 tokens, ");
    terminal.until("> ");
    terminal.type_in("/bye\r");
    terminal.ends_well();
}

#[test]
fn several_lines_are_one_message() {
    let mut terminal = Terminal::open(DEMO, &["-n", "2"]);
    terminal.until("> ");
    terminal.type_in("fn main() {\\\r    let mut\r");
    terminal.until("[2 tokens, ");
    terminal.until("> ");
    terminal.type_in("\"\"\"\rfn main() {\r\"\"\"\r");
    terminal.until("[2 tokens, ");
    terminal.until("> ");
    terminal.type_in("/help\r");
    terminal.until("/clear");
    terminal.until("> ");
    terminal.type_in("/sett\r");
    terminal.until("/sett is no command");
    terminal.until("> ");
    terminal.type_in("\x04");
    terminal.ends_well();
}

#[test]
fn a_model_with_a_chat_template_is_given_messages() {
    let mut terminal = Terminal::open("runtime/tests/data/nano-i2_s.gguf", &["-n", "4", "--ignore-eos"]);
    let greeting = terminal.until("> ");
    println!("{greeting}");
    for _ in 0..2 {
        terminal.type_in("Hello\r");
        terminal.until("[4 tokens, ");
        terminal.until("> ");
    }
    terminal.type_in("\x04");
    terminal.ends_well();
}
