//! Where the labels of a picture stand: beside their points, or a little off with a line to the point; and where there is no room for all
//! of them, in a legend, with numbers at the points.

/// A line of text, and a letter, about, in pixels.
pub const LINE: f64 = 15.0;
pub const LETTER: f64 = 6.3;
/// From a point to the text beside it.
const GAP: f64 = 8.0;
/// Of a point itself.
const RADIUS: f64 = 5.0;
/// Lines that a label may be off its point.
const LINES_OFF: i32 = 4;

/// A rectangle in pixels.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Area {
    pub left: f64,
    pub top: f64,
    pub right: f64,
    pub bottom: f64,
}

impl Area {
    fn overlaps(&self, other: &Area) -> bool {
        self.left < other.right && self.right > other.left && self.top < other.bottom && self.bottom > other.top
    }

    fn holds(&self, other: &Area) -> bool {
        self.left <= other.left && self.right >= other.right && self.top <= other.top && self.bottom >= other.bottom
    }

    fn around((x, y): (f64, f64), radius: f64) -> Area {
        Area {
            left: x - radius,
            top: y - radius,
            right: x + radius,
            bottom: y + radius,
        }
    }

    /// Of a line of text that begins at `left`.
    fn of_text(left: f64, baseline: f64, letters: usize) -> Area {
        Area {
            left,
            top: baseline - 11.0,
            right: left + letters as f64 * LETTER,
            bottom: baseline + 4.0,
        }
    }
}

/// A label in its place.
#[derive(Debug, Clone, PartialEq)]
pub struct Label {
    pub text: String,
    /// What it covers.
    pub area: Area,
    /// The text ends at the right edge of the area, where its point is, instead of beginning at the left.
    pub ends: bool,
    /// Ends of a line from the point to it, where it is off.
    pub leader: Option<[(f64, f64); 2]>,
}

impl Label {
    /// Where the text is anchored.
    pub fn anchor(&self) -> (f64, f64) {
        let x = if self.ends { self.area.right } else { self.area.left };
        (x, self.area.bottom - 4.0)
    }
}

/// What is placed so far.
#[derive(Clone)]
pub struct Labels {
    /// Where labels may be.
    within: Area,
    /// What no label may cover.
    taken: Vec<Area>,
    /// What none should.
    lines: Vec<Area>,
}

impl Labels {
    /// Nothing yet but `points`.
    pub fn new(within: Area, points: impl Iterator<Item = (f64, f64)>) -> Labels {
        Labels {
            within,
            taken: points.map(|at| Area::around(at, RADIUS)).collect(),
            lines: Vec::new(),
        }
    }

    /// A line, better not to be written over.
    pub fn line(&mut self, from: (f64, f64), to: (f64, f64)) {
        self.lines.extend(along(from, to).map(|at| Area::around(at, 2.0)));
    }

    /// A text that begins here, or further to the right, or if need be lower: the name of a level line below it.
    pub fn above(&mut self, (left, baseline): (f64, f64), text: String) -> Label {
        const STEP: f64 = 20.0;
        let letters = text.chars().count();
        let last = self.within.right - letters as f64 * LETTER;
        let left = left.min(last);
        let places = (0..8).flat_map(|lower| {
            let baseline = baseline + f64::from(lower) * (LINE + 4.0);
            let lefts = (0..=((last - left) / STEP) as usize).map(move |step| left + step as f64 * STEP);
            lefts.map(move |left| Area::of_text(left, baseline, letters))
        });
        let mut free = places.filter(|area| !self.taken.iter().any(|other| area.overlaps(other)));
        let area = free.next().unwrap_or(Area::of_text(left, baseline, letters));
        drop(free);
        self.taken.push(area);
        Label {
            text,
            area,
            ends: false,
            leader: None,
        }
    }

    /// A label for each point: all of their texts; or, where these do not fit, their numbers from 1, for a legend.
    pub fn beside(&mut self, points: &[((f64, f64), String)]) -> Vec<Label> {
        let mut texts = self.clone();
        let all = points.iter().map(|(point, text)| {
            let label = texts.free(*point, text)?;
            texts.take(&label);
            Some(label)
        });
        if let Some(all) = all.collect() {
            *self = texts;
            return all;
        }
        let numbers = (1..).zip(points).map(|(number, (point, _))| {
            let number = usize::to_string(&number);
            // Where there is no room for that either, it covers something.
            let label = self.free(*point, &number).unwrap_or_else(|| Label {
                area: Area::of_text(point.0 + GAP, point.1 + 4.0, number.len()),
                text: number,
                ends: false,
                leader: None,
            });
            self.take(&label);
            label
        });
        numbers.collect()
    }

    fn take(&mut self, label: &Label) {
        let leader = label.leader.iter().flat_map(|&[from, to]| along(from, to));
        self.taken.extend(leader.map(|at| Area::around(at, 1.0)));
        self.taken.push(label.area);
    }

    /// The nearest place that covers nothing, or else the nearest that covers only lines.
    fn free(&self, point: (f64, f64), text: &str) -> Option<Label> {
        let letters = text.chars().count();
        let width = letters as f64 * LETTER;
        // Below the point, above it, and beside it, as far as text touches it; then off it. On its right, and on its left.
        let near = [LINE, -6.0, 4.0].into_iter().map(|down| (GAP, down));
        let off = (1..=LINES_OFF).flat_map(|lines| {
            let far = f64::from(lines) * LINE;
            [LINE + far, -6.0 - far].map(|down| (GAP + far / 2.0, down))
        });
        let places = near.map(|place| (place, false)).chain(off.map(|place| (place, true)));
        let labels = places.flat_map(|((aside, down), is_off)| {
            [false, true].map(|ends| {
                let left = point.0 + if ends { -aside - width } else { aside };
                let area = Area::of_text(left, point.1 + down, letters);
                Label {
                    text: text.to_owned(),
                    area,
                    ends,
                    leader: is_off.then(|| leader(point, &area)),
                }
            })
        });
        let own = Area::around(point, RADIUS);
        let is_free = |label: &Label| {
            let crosses = |other: &Area| {
                let mut places = label.leader.iter().flat_map(|&[from, to]| along(from, to));
                *other != own && places.any(|at| other.overlaps(&Area::around(at, 1.0)))
            };
            let blocked = |other: &Area| label.area.overlaps(other) || crosses(other);
            self.within.holds(&label.area) && !self.taken.iter().any(blocked)
        };
        let free: Vec<Label> = labels.filter(is_free).collect();
        let clear = |label: &&Label| !self.lines.iter().any(|line| label.area.overlaps(line));
        free.iter().find(clear).or(free.first()).cloned()
    }
}

/// Places on a line, close to one another.
fn along(from: (f64, f64), to: (f64, f64)) -> impl Iterator<Item = (f64, f64)> {
    let (x, y) = (to.0 - from.0, to.1 - from.1);
    let steps = (x.hypot(y) / 4.0).ceil().max(1.0);
    (0..=steps as usize).map(move |step| {
        let part = step as f64 / steps;
        (from.0 + part * x, from.1 + part * y)
    })
}

/// From the edge of a point to the nearest corner or edge of a label.
fn leader(point: (f64, f64), area: &Area) -> [(f64, f64); 2] {
    let to = (
        point.0.clamp(area.left - 2.0, area.right + 2.0),
        point.1.clamp(area.top, area.bottom),
    );
    let (x, y) = (to.0 - point.0, to.1 - point.1);
    let length = x.hypot(y).max(1e-9);
    [(point.0 + x / length * RADIUS, point.1 + y / length * RADIUS), to]
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLOT: Area = Area {
        left: 64.0,
        top: 76.0,
        right: 780.0,
        bottom: 408.0,
    };

    #[test]
    fn a_lone_label_stands_beside_its_point_and_inside_the_picture() {
        for (point, ends) in [((100.0, 100.0), false), ((770.0, 100.0), true), ((100.0, 407.0), false)] {
            let mut labels = Labels::new(PLOT, [point].into_iter());
            let [label] = &labels.beside(&[(point, "decode: 25 tokens/s".to_owned())])[..] else {
                panic!("one point, one label");
            };
            assert_eq!(
                (&*label.text, label.leader, label.ends),
                ("decode: 25 tokens/s", None, ends)
            );
            assert!(PLOT.holds(&label.area));
            assert!((label.anchor().0 - point.0).abs() == GAP);
        }
    }

    /// Points in a heap, with labels, beside the name of a roof.
    fn heap(points: i32, text: impl Fn(i32) -> String) -> Vec<Label> {
        let at = |i: i32| (200.0 + f64::from(i * 67 % 200), 200.0 + f64::from(i * 41 % 150));
        let points: Vec<_> = (0..points).map(|i| (at(i), text(i))).collect();
        let mut labels = Labels::new(PLOT, points.iter().map(|(at, _)| *at));
        let name = labels.above((600.0, 200.0), "a roof".to_owned());
        let all = labels.beside(&points);
        for (i, (label, (point, _))) in all.iter().zip(&points).enumerate() {
            let away = (label.area.top - point.1).max(point.1 - label.area.bottom);
            assert!(away <= f64::from(LINES_OFF + 1) * LINE, "{label:?} of {point:?}");
            let others = all[..i].iter().chain([&name]);
            assert!(
                others.into_iter().all(|other| !label.area.overlaps(&other.area)),
                "{all:?}"
            );
            assert!(
                points
                    .iter()
                    .all(|(at, _)| !label.area.overlaps(&Area::around(*at, RADIUS))),
                "{all:?}"
            );
        }
        all
    }

    #[test]
    fn labels_cover_nothing_and_stay_near_their_points() {
        let all = heap(6, |i| format!("decode of {i} sequences"));
        assert!(all.iter().all(|label| label.text.starts_with("decode")));
    }

    #[test]
    fn where_there_is_no_room_for_all_there_are_numbers() {
        let all = heap(20, |i| format!("decode of {i} sequences: 25 tokens/s, 2 threads"));
        let numbers: Vec<_> = all.iter().map(|label| label.text.parse().ok()).collect();
        assert_eq!(numbers, (1..=20).map(Some).collect::<Vec<_>>());
    }

    #[test]
    fn a_leader_ends_at_its_label_and_lines_are_avoided() {
        let point = (300.0, 300.0);
        let mut labels = Labels::new(PLOT, [point].into_iter());
        let text = [(point, "text".to_owned())];
        let free = labels.clone().beside(&text).remove(0);
        labels.line((250.0, 310.0), (350.0, 310.0));
        let above = labels.clone().beside(&text).remove(0);
        assert!(free.area.top > 300.0 && above.area.bottom < 300.0, "{free:?} {above:?}");
        // All that touches the point is taken.
        labels.taken.push(Area::of_text(308.0, 300.0, 9));
        labels.taken.push(Area::of_text(308.0, 316.0, 9));
        labels.taken.push(Area::of_text(230.0, 300.0, 11));
        labels.taken.push(Area::of_text(230.0, 316.0, 11));
        let label = labels.beside(&text).remove(0);
        let [from, to] = label.leader.expect("it is off");
        assert!((from.0 - point.0).hypot(from.1 - point.1) < RADIUS + 0.1);
        assert!(to.1 == label.area.top || to.1 == label.area.bottom, "{label:?}");
    }
}
