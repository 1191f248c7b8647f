//! Kernels for many tokens take most of a MiB of stack: more than the environment may leave to threads that do not say what they need.

use std::process::Command;

use sterna::kernels::variants;
use sterna::machine::cpu::Machine;

#[test]
fn threads_have_the_stack_that_kernels_need() {
    let features = Machine::detect().features;
    let model = concat!(env!("CARGO_MANIFEST_DIR"), "/runtime/tests/data/nano-i2_s.gguf");
    let tokens = vec!["791"; 100].join(",");
    let out = tempfile::NamedTempFile::new().unwrap();
    // The engine's thread and the pool's, and the one that runs the command.
    let commands = [
        &["run", "--max-tokens", "1"][..],
        &["logits", "-o", out.path().to_str().unwrap()],
    ];
    for kernels in variants().iter().filter(|variant| variant.runs_on(&features)) {
        for command in commands {
            let mut small = Command::new("sh");
            small.args(["-c", "ulimit -s 512; exec \"$@\"", "sh", env!("CARGO_BIN_EXE_sterna")]);
            small
                .args(command)
                .arg(model)
                .args(["--tokens", &tokens, "--threads", "2", "--kernel", kernels.name]);
            let output = small.env("RUST_MIN_STACK", "131072").output().unwrap();
            assert!(output.status.success(), "{command:?} with {}: {output:?}", kernels.name);
        }
    }
}
