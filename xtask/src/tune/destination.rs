//! The target file that the result goes to. It is a person's file: what is not the tuner's in it stays as it is, byte by byte.

use std::fmt;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use serde::Serialize;
use sterna_codegen::plan::KernelPlan;
use sterna_codegen::target::{TargetSpec, Tuned};

use super::Args;
use crate::cpu::Machine;
use crate::{detect, machine, workspace};

/// The file to write to.
#[derive(Debug)]
pub struct Destination {
    pub path: PathBuf,
    /// What it holds, or will hold, besides the result.
    pub text: String,
}

/// What was written.
#[derive(Debug, Serialize)]
pub struct Written {
    pub path: PathBuf,
    /// An earlier tuning of the file went, and no new one came.
    pub dropped: bool,
}

impl fmt::Display for Written {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.display();
        if self.dropped {
            return write!(
                f,
                "wrote {path}: its earlier tuning, which this machine does not confirm, is gone"
            );
        }
        write!(f, "wrote {path}: review and commit it, then build with that target")
    }
}

impl Destination {
    /// Where the result goes: `None` with `--dry-run`. Found out, and known to be writable text, before anything long begins.
    pub fn find(args: &Args, spec: &TargetSpec, here: &Machine) -> Result<Option<Destination>> {
        if args.dry_run {
            return Ok(None);
        }
        let destination = match &args.write {
            Some(_) if args.target != "native" => {
                bail!("--write describes this machine: leave --target {} out", args.target)
            }
            Some(name) => Destination::new(name, here)?,
            None => Destination::existing(args, spec)?,
        };
        Ok(Some(destination))
    }

    /// A description of this machine that is not there yet.
    fn new(name: &str, here: &Machine) -> Result<Destination> {
        let today = chrono::Local::now().format("%Y-%m-%d");
        let spec = machine::spec(here, name, &format!("cargo xtask detect, {today}"));
        let path = detect::new_file(&spec, false)
            .with_context(|| format!("--write {name}: `--target {name}` tunes a file that is there"))?;
        let text = spec.to_toml();
        TargetSpec::parse(&path, &text)?;
        Ok(Destination { path, text })
    }

    fn existing(args: &Args, spec: &TargetSpec) -> Result<Destination> {
        let path = if args.target.contains('/') || args.target.ends_with(".toml") {
            PathBuf::from(&args.target)
        } else {
            workspace::targets_dir().join(format!("{}.toml", spec.name))
        };
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let destination = Destination { path, text };
        let others = destination.others(&args.knob)?;
        if !others.is_empty() {
            bail!(
                "{} holds tuned values of {}, and a tuning is of one day: leave --knob out to tune all of them anew, or add --dry-run",
                destination.path.display(),
                others.join(", ")
            );
        }
        Ok(destination)
    }

    /// Knobs that an earlier tuning set, and that tuning only `knobs` would lose.
    fn others(&self, knobs: &[String]) -> Result<Vec<String>> {
        let tuned = TargetSpec::parse(&self.path, &self.text)?.tuned;
        if knobs.is_empty() {
            return Ok(Vec::new());
        }
        let names = tuned.iter().flat_map(|tuned| tuned.levels.values().flatten());
        let covered = |name: &str| {
            let knob = if matches!(name, "mr" | "nr") { "tile" } else { name };
            knobs.iter().any(|asked| asked == knob)
        };
        Ok(names
            .map(|(name, _)| name.clone())
            .filter(|name| !covered(name))
            .collect())
    }

    /// Writes the file, if that changes it. Without a result an earlier one goes.
    pub fn store(&self, tuned: Option<&Tuned>) -> Result<Option<Written>> {
        let old = fs::read_to_string(&self.path).ok();
        if old.as_ref().is_some_and(|old| *old != self.text) {
            bail!("{} changed meanwhile: nothing written", self.path.display());
        }
        let before = TargetSpec::parse(&self.path, &self.text)?.tuned;
        if old.is_some() && before.as_ref() == tuned {
            return Ok(None);
        }
        let text = with_tuned(&self.text, tuned)?;
        // Before it is written, not after: a file must not say something else than was meant.
        let spec = TargetSpec::parse(&self.path, &text)?;
        if spec.tuned.as_ref() != tuned {
            bail!("cannot place the result in {}: nothing written", self.path.display());
        }
        KernelPlan::new(&spec)?;
        fs::write(&self.path, text).with_context(|| format!("cannot write {}", self.path.display()))?;
        Ok(Some(Written {
            path: self.path.clone(),
            dropped: old.is_some() && tuned.is_none(),
        }))
    }
}

/// A target file's text with this result in the place of an earlier one, at its end. Everything else stays as it is written, comments
/// among or behind the earlier result too: the tuner writes none, so they are a person's. They stand behind the new one.
fn with_tuned(text: &str, tuned: Option<&Tuned>) -> Result<String> {
    let (mut kept, mut behind) = (String::new(), String::new());
    // Comments since the last line of the result: of the table that follows, if one does.
    let mut comments = String::new();
    let mut inside = false;
    for line in text.lines() {
        if line.starts_with('[') {
            inside = line.starts_with("[tuned]") || line.starts_with("[tuned.");
            if !inside {
                kept += &std::mem::take(&mut comments);
            }
        }
        let is_comment = line.trim_start().starts_with('#') || (line.trim().is_empty() && !comments.is_empty());
        let to = if !inside {
            &mut kept
        } else if is_comment {
            &mut comments
        } else {
            behind += &std::mem::take(&mut comments);
            continue;
        };
        *to += line;
        *to += "\n";
    }
    behind += &comments;
    let mut text = kept.trim_end().to_owned() + "\n";
    if let Some(tuned) = tuned {
        #[derive(Serialize)]
        struct Section<'a> {
            tuned: &'a Tuned,
        }
        text += "\n";
        text += &toml::to_string_pretty(&Section { tuned })?;
    }
    if !behind.is_empty() {
        text += "\n";
        text += behind.trim_end();
        text += "\n";
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{AVX2, args, tuned};
    use super::*;

    #[test]
    fn the_result_goes_to_the_end_of_the_file_and_the_planner_takes_it() {
        let tuned = tuned("prefetch_bytes", 8192);
        let original = format!("# a comment\n{AVX2}\n[cache]\nline_bytes = 64\n");
        let once = with_tuned(&original, Some(&tuned)).unwrap();
        assert!(once.starts_with(original.trim_end()), "{once}");
        let read: TargetSpec = toml::from_str(&once).unwrap();
        assert_eq!(read.tuned.as_ref(), Some(&tuned));
        assert_eq!(KernelPlan::new(&read).unwrap().variants[0].knob("prefetch_bytes"), 8192);
        // Again, and with no result: it is replaced, and removed.
        assert_eq!(with_tuned(&once, Some(&tuned)).unwrap(), once);
        assert_eq!(with_tuned(&once, None).unwrap(), original);
        let between = once.replace("[cache]\nline_bytes = 64\n", "") + "\n[cache]\nline_bytes = 64\n";
        let lines = |text: &str| {
            let lines = text.lines().filter(|line| !line.is_empty());
            lines.map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(lines(&with_tuned(&between, None).unwrap()), lines(&original));
    }

    #[test]
    fn comments_among_and_behind_the_result_are_kept() {
        let (one, other) = (tuned("prefetch_bytes", 8192), tuned("prefetch_bytes", 512));
        let written = with_tuned(AVX2, Some(&one)).unwrap();
        assert_eq!(written.matches("\n[tuned").count(), 2, "{written}");
        let written = written.replace("\n[tuned.", "\n# among\n[tuned.") + "\n# behind,\n\n  # and more\n";
        let comments = "\n# among\n# behind,\n\n  # and more\n";
        let again = with_tuned(&written, Some(&other)).unwrap();
        assert_eq!(again, with_tuned(AVX2, Some(&other)).unwrap() + comments);
        assert_eq!(with_tuned(&again, Some(&other)).unwrap(), again);
        assert_eq!(with_tuned(&written, None).unwrap(), AVX2.to_owned() + comments);
        // What stands in front of another table belongs to that.
        let table = "\n# of the cache\n[cache]\nline_bytes = 64\n";
        let replaced = with_tuned(&(written + table), Some(&other)).unwrap();
        assert!(replaced.starts_with(AVX2) && replaced.contains(table), "{replaced}");
        assert!(replaced.find("# of the cache") < replaced.find("[tuned]"), "{replaced}");
    }

    #[test]
    fn a_file_is_changed_only_as_announced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("box.toml");
        let destination = Destination {
            path: path.clone(),
            text: AVX2.to_owned(),
        };
        fs::write(&path, AVX2).unwrap();
        assert!(destination.store(None).unwrap().is_none(), "no gain: as it was");
        let result = tuned("prefetch_bytes", 8192);
        let written = destination.store(Some(&result)).unwrap().unwrap();
        assert!(written.to_string().contains("review"), "{written}");
        let text = fs::read_to_string(&path).unwrap();
        // The file is no longer what was read before measuring.
        let error = destination.store(Some(&tuned("prefetch_bytes", 512))).unwrap_err();
        assert!(error.to_string().contains("changed meanwhile"), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
        // A later measurement that confirms nothing takes the result out, and says so.
        let later = Destination {
            path: path.clone(),
            text,
        };
        assert_eq!(later.others(&["tile".to_owned()]).unwrap(), ["prefetch_bytes"]);
        assert!(later.others(&["prefetch_bytes".to_owned()]).unwrap().is_empty());
        assert!(later.others(&[]).unwrap().is_empty());
        let written = later.store(None).unwrap().unwrap();
        assert!(written.to_string().contains("earlier tuning"), "{written}");
        assert_eq!(fs::read_to_string(&path).unwrap(), AVX2);
    }

    #[test]
    fn a_result_that_cannot_be_placed_is_not_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("box.toml");
        let result = tuned("prefetch_bytes", 8192);
        let elsewhere = with_tuned(AVX2, Some(&result)).unwrap().replace("[tuned]", "[ tuned ]");
        fs::write(&path, &elsewhere).unwrap();
        let destination = Destination {
            path: path.clone(),
            text: elsewhere.clone(),
        };
        assert!(destination.store(None).is_err());
        assert!(destination.store(Some(&tuned("prefetch_bytes", 512))).is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), elsewhere);
    }

    #[test]
    fn a_destination_is_needed_before_anything_long() {
        let here = Machine::detect();
        let spec = machine::native();
        let find = |target: &str, write: Option<&str>, dry_run, spec: &TargetSpec| {
            Destination::find(&args(target, write, dry_run), spec, &here)
        };
        assert!(find("native", None, true, &spec).unwrap().is_none());
        let new = find("native", Some("never-committed"), false, &spec).unwrap().unwrap();
        assert!(new.path.ends_with("images/targets/never-committed.toml") && new.text.contains("never-committed"));
        for taken in ["avx2", "amd-zen3", "native", "a/b", "Not a tag"] {
            assert!(find("native", Some(taken), false, &spec).is_err(), "{taken}");
        }
        assert!(find("zen3", Some("other"), false, &spec).is_err());
        let zen3 = TargetSpec::resolve(&workspace::targets_dir(), "zen3").unwrap();
        let found = find("amd-zen3", None, false, &zen3).unwrap().unwrap();
        assert!(found.path.ends_with("images/targets/zen3.toml"));
    }
}
