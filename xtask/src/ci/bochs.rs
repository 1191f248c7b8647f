//! A PC that Bochs emulates, for CPUs that nobody here has: Linux, one program after another, and the power is off.
//!
//! Bochs interprets every instruction, AVX-512 included, at some 50 million a second. It has no way to run a program
//! or to be given a kernel: it starts from a CD, so a boot loader, a kernel and the programs become one.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

use super::initramfs::Initramfs;
use crate::{tool, workspace};

/// Core i7-1065G7: AVX-512 with VNNI and VBMI. Bochs 2.7 knows no CPU with AVX-VNNI.
const CPU: &str = "corei7_icelake_u";

/// What Linux must not use of that CPU: Bochs 2.7 states sizes of XSAVE areas that contradict each other for
/// protection keys (16 * 32 + 3) and the compact forms (10 * 32 + 1 and 3), and with one of UMIP (16 * 32 + 2), RDPID
/// (16 * 32 + 22) and FSRM (18 * 32 + 4) it hangs in its first page fault. Programs see the raw CPUID nevertheless.
const CLEARED: &str = "clearcpuid=515,321,323,514,534,580";

/// What else makes Linux start soon: no kernel messages, no self-tests, no waiting for clocks that are emulated as well.
const COMMAND_LINE: &str = "console=ttyS0 quiet nokaslr mitigations=off tsc=reliable no_timer_check cryptomgr.notests";

/// A kernel that hangs must not stop everything behind this step.
const TIME_LIMIT: Duration = Duration::from_secs(20 * 60);

const HOW: &str = "install the emulator (Debian: bochs bochsbios vgabios isolinux syslinux-common xorriso)";

/// A PC that runs.
pub struct Pc {
    bochs: Child,
    serial: PathBuf,
    /// What Bochs says itself.
    said: PathBuf,
}

/// Starts what the file `/tests` of `programs` lists (see `xtask/bochs/init.c`). All files are in `folder`.
pub fn start(mut programs: Initramfs, folder: &Path) -> Result<Pc> {
    let bochs = tool::need("bochs", HOW)?;
    programs.add("init", 0o755, &init(folder)?)?;
    fs::create_dir_all(folder.join("cd"))?;
    fs::write(folder.join("cd/initrd"), programs.finish()?)?;
    let cd = cd(folder)?;
    let serial = folder.join("serial.txt");
    let configuration = folder.join("bochsrc");
    fs::write(&configuration, bochsrc(&cd, &serial, &folder.join("bochs.log"))?)?;
    let said = folder.join("bochs.out");
    let output = fs::File::create(&said)?;
    let bochs = emulator(&bochs)
        .args(["-q", "-f"])
        .arg(&configuration)
        .stdin(Stdio::piped())
        .stdout(output.try_clone()?)
        .stderr(output)
        .spawn()
        .context("cannot start bochs")?;
    let mut pc = Pc { bochs, serial, said };
    // Where it was built with its debugger, as Debian's is, it waits for this word.
    let stdin = pc.bochs.stdin.as_mut().context("bochs has no standard input")?;
    stdin.write_all(b"continue\n")?;
    Ok(pc)
}

impl Pc {
    /// Waits until it is switched off; what its programs printed.
    pub fn wait(mut self) -> Result<String> {
        let start = Instant::now();
        // Its exit status says nothing: switching off is an error to it.
        while self.bochs.try_wait()?.is_none() {
            if start.elapsed() > TIME_LIMIT {
                bail!(
                    "the emulated PC still runs after {TIME_LIMIT:?}\n{}",
                    read(&self.serial)
                );
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        let printed = read(&self.serial);
        ensure!(
            printed.contains("== all ran"),
            "the emulated PC ended early\n{printed}\n{}",
            read(&self.said)
        );
        Ok(printed)
    }
}

impl Drop for Pc {
    fn drop(&mut self) {
        // It may have ended by itself, which is what both fail for.
        let _ = self.bochs.kill();
        let _ = self.bochs.wait();
    }
}

/// Starts what `bochs` is in a network of its own, since its only screen without a window is a server that anybody could connect to; and
/// lets it end with us.
fn emulator(bochs: &Path) -> Command {
    // As root, or as somebody who becomes root of a user namespace for that.
    for namespaces in [&["--net"][..], &["--net", "--map-root-user"]] {
        let alone = |program: &Path| {
            let mut command = Command::new("unshare");
            command
                .args(namespaces)
                .args(["setpriv", "--pdeathsig", "KILL"])
                .arg(program);
            command
        };
        if tool::output(&mut alone(Path::new("true"))).is_ok_and(|out| out.code == Some(0)) {
            return alone(bochs);
        }
    }
    println!(
        "   unshare or setpriv cannot cut the emulator off from the network: its screen is on port 5900 of this machine meanwhile"
    );
    Command::new(bochs)
}

fn read(path: &Path) -> String {
    let bytes = fs::read(path).unwrap_or_default();
    String::from_utf8_lossy(&bytes).replace('\r', "")
}

/// Compiles the PC's first program.
fn init(folder: &Path) -> Result<Vec<u8>> {
    let (source, binary) = (workspace::root().join("xtask/bochs/init.c"), folder.join("init"));
    let cc = std::env::var_os("CC").unwrap_or_else(|| "cc".into());
    let flags = [
        "-std=gnu11",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-O1",
        "-static",
        "-s",
        "-o",
    ];
    tool::run(Command::new(cc).args(flags).args([&binary, &source]))?;
    Ok(fs::read(binary)?)
}

/// The CD that the PC starts from; `folder/cd` holds the programs already.
fn cd(folder: &Path) -> Result<PathBuf> {
    let (content, image) = (folder.join("cd"), folder.join("cd.iso"));
    let xorriso = tool::need("xorriso", HOW)?;
    fs::copy(kernel()?, content.join("vmlinuz"))?;
    let loader = [
        "/usr/lib/ISOLINUX/isolinux.bin",
        "/usr/lib/syslinux/modules/bios/ldlinux.c32",
    ];
    for file in loader.map(Path::new) {
        let name = file.file_name().context("a file")?;
        fs::copy(file, content.join(name)).map_err(|_| tool::missing(&file.display().to_string(), HOW))?;
    }
    let configuration =
        format!("DEFAULT tests\nLABEL tests\nKERNEL vmlinuz\nINITRD initrd\nAPPEND {COMMAND_LINE} {CLEARED}\n");
    fs::write(content.join("isolinux.cfg"), configuration)?;
    let mut command = Command::new(xorriso);
    command.args(["-as", "mkisofs", "-quiet", "-o"]).arg(&image);
    command.args([
        "-b",
        "isolinux.bin",
        "-no-emul-boot",
        "-boot-load-size",
        "4",
        "-boot-info-table",
    ]);
    tool::run(command.arg(content))?;
    Ok(image)
}

/// A Linux kernel for PCs: the one that `.ci/run` unpacks, or the newest of this machine.
fn kernel() -> Result<PathBuf> {
    let readable = |folder: PathBuf| {
        let files = fs::read_dir(folder)
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path());
        files
            .filter(|path| {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                name.starts_with("vmlinuz") && fs::File::open(path).is_ok()
            })
            .max()
    };
    readable(workspace::target_dir().join("ci/linux/boot"))
        .or_else(|| readable(PathBuf::from("/boot")))
        .ok_or_else(|| {
            let how = "unpack Debian's linux-image-cloud-amd64 in target/ci/linux, as .ci/run does";
            tool::missing("a readable Linux kernel", how)
        })
}

fn bochsrc(cd: &Path, serial: &Path, log: &Path) -> Result<String> {
    let rom = |names: &[&str]| {
        let candidates = names.iter().map(|name| Path::new("/usr/share").join(name));
        let found = candidates.into_iter().find(|path| path.is_file());
        found.ok_or_else(|| tool::missing(names[0], HOW))
    };
    let bios = rom(&["bochs/BIOS-bochs-latest"])?;
    let vga = rom(&[
        "bochs/VGABIOS-lgpl-latest",
        "bochs/VGABIOS-lgpl-latest.bin",
        "vgabios/vgabios.bin",
    ])?;
    // A screen that nobody looks at. Few instructions a second, so that what waits for a clock waits shortly.
    Ok(format!(
        "config_interface: textconfig
display_library: rfb, options=\"timeout=0\"
romimage: file={}
vgaromimage: file={}
cpu: model={CPU}, count=1, ips=10000000, reset_on_triple_fault=0
memory: guest=1024, host=1024
clock: sync=none
boot: cdrom
ata0: enabled=1, ioaddr1=0x1f0, ioaddr2=0x3f0, irq=14
ata0-master: type=cdrom, path=\"{}\", status=inserted
com1: enabled=1, mode=file, dev=\"{}\"
log: \"{}\"
panic: action=fatal
error: action=ignore
info: action=ignore
speaker: enabled=0
sound: waveoutdrv=dummy, waveindrv=dummy, midioutdrv=dummy
",
        bios.display(),
        vga.display(),
        cd.display(),
        serial.display(),
        log.display()
    ))
}
