//! Energy counters of the processor packages, where the system lets us read them (RAPL, by the powercap files).

use std::fs;
use std::path::{Path, PathBuf};

/// Where Linux shows them, for Intel and AMD alike.
pub const POWERCAP: &str = "/sys/class/powercap";

/// The counters of all packages.
#[derive(Debug)]
pub struct Energy {
    packages: Vec<Package>,
}

#[derive(Debug)]
struct Package {
    /// `energy_uj`: microjoules, counting up to `range_uj` and then from 0.
    counter: PathBuf,
    range_uj: u64,
}

/// A reading of every counter, in microjoules.
#[derive(Debug, Clone)]
pub struct Reading(Vec<u64>);

impl Energy {
    /// Finds the counters under `root`; the error says why there are none.
    pub fn open(root: &Path) -> Result<Energy, String> {
        let entries = fs::read_dir(root).map_err(|error| format!("{}: {error}", root.display()))?;
        let mut packages = Vec::new();
        for entry in entries.flatten() {
            let path = entry.path();
            // Only whole packages: their parts (cores, memory controller) are zones of their own inside.
            let name = fs::read_to_string(path.join("name")).unwrap_or_default();
            if !name.starts_with("package") {
                continue;
            }
            let counter = path.join("energy_uj");
            read(&counter)?;
            let range_uj = read(&path.join("max_energy_range_uj"))?;
            packages.push(Package { counter, range_uj });
        }
        if packages.is_empty() {
            return Err(format!("{}: no package has an energy counter", root.display()));
        }
        Ok(Energy { packages })
    }

    /// All counters now; `None` when one cannot be read any more.
    pub fn read(&self) -> Option<Reading> {
        let all = self.packages.iter().map(|package| read(&package.counter).ok());
        all.collect::<Option<_>>().map(Reading)
    }

    /// Joules between two readings that are less than one turn of a counter apart.
    pub fn joules(&self, from: &Reading, to: &Reading) -> f64 {
        let turns = self.packages.iter().zip(from.0.iter().zip(&to.0));
        let micro = turns.map(|(package, (&from, &to))| {
            if to >= from {
                to - from
            } else {
                package.range_uj.saturating_sub(from).saturating_add(to)
            }
        });
        micro.sum::<u64>() as f64 / 1e6
    }
}

fn read(path: &Path) -> Result<u64, String> {
    let failed = |what: &dyn std::fmt::Display| format!("{}: {what}", path.display());
    let text = fs::read_to_string(path).map_err(|error| failed(&error))?;
    text.trim().parse().map_err(|error| failed(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn zone(root: &Path, zone: &str, name: &str, energy: &str) {
        let path = root.join(zone);
        fs::create_dir_all(&path).unwrap();
        fs::write(path.join("name"), format!("{name}\n")).unwrap();
        fs::write(path.join("energy_uj"), energy).unwrap();
        fs::write(path.join("max_energy_range_uj"), "1000000\n").unwrap();
    }

    #[test]
    fn packages_are_added_up_and_their_parts_are_not_counted_twice() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        zone(root, "intel-rapl:0", "package-0", "100\n");
        zone(root, "intel-rapl:0:0", "core", "90\n");
        zone(root, "intel-rapl:1", "package-1", "900000\n");
        fs::create_dir(root.join("intel-rapl")).unwrap(); // the control type, which has no name
        let energy = Energy::open(root).unwrap();
        let from = energy.read().unwrap();
        zone(root, "intel-rapl:0", "package-0", "500100\n");
        zone(root, "intel-rapl:0:0", "core", "999999\n");
        // The second package's counter turns over: 100000 to the end, 400000 after it.
        zone(root, "intel-rapl:1", "package-1", "400000\n");
        let to = energy.read().unwrap();
        assert_eq!(energy.joules(&from, &to), 1.0);
        assert_eq!(energy.joules(&to, &to), 0.0);
        fs::remove_file(root.join("intel-rapl:1/energy_uj")).unwrap();
        assert!(energy.read().is_none());
    }

    #[test]
    fn without_counters_it_says_why() {
        let dir = tempfile::tempdir().unwrap();
        let none = Energy::open(&dir.path().join("nowhere")).unwrap_err();
        assert!(none.contains("nowhere"), "{none}");
        assert!(Energy::open(dir.path()).unwrap_err().contains("no package"));
        zone(dir.path(), "intel-rapl:0", "package-0", "many\n");
        assert!(Energy::open(dir.path()).unwrap_err().contains("energy_uj"));
    }
}
