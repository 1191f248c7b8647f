//! The results as a picture: a roofline in SVG, the same text for the same numbers.
//!
//! Across: multiply-adds for a byte that has to be read. Up: multiply-adds a second. The slope is the memory's roof, the level
//! part that of the dot product; a measurement lies as far below as it falls short. Both axes are logarithmic.

use std::fmt::Write as _;

use super::labels::{Area, LETTER, LINE, Labels};

/// The ceilings of one number of threads, and what was measured under them.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    /// `2 threads`.
    pub name: String,
    /// Bytes per second.
    pub read: f64,
    /// Multiply-adds per second.
    pub dot: f64,
    pub points: Vec<Point>,
}

/// One measurement.
#[derive(Debug, Clone, PartialEq)]
pub struct Point {
    /// What stands beside it: `decode at 2048: 25 tokens/s`.
    pub label: String,
    pub macs_per_byte: f64,
    pub macs_per_s: f64,
}

/// The whole picture, in pixels.
const WIDTH: f64 = 800.0;
const HEIGHT: f64 = 460.0;
/// The plot inside of it.
const LEFT: f64 = 64.0;
const RIGHT: f64 = WIDTH - 20.0;
const TOP: f64 = 76.0;
const BOTTOM: f64 = HEIGHT - 52.0;
const PLOT: Area = Area {
    left: LEFT,
    top: TOP,
    right: RIGHT,
    bottom: BOTTOM,
};

/// Of the two series.
const CLASSES: [&str; 2] = ["s0", "s1"];

/// For light and dark pages.
const STYLE: &str = "
text { font: 12px system-ui, sans-serif; fill: #1f2328 }
.title { font-size: 15px; font-weight: 600 }
.faint { fill: #59636e }
.grid { stroke: #d1d9e0; stroke-width: 1 }
.roof { fill: none; stroke-width: 2 }
.leader { stroke-width: 0.75 }
.s0 { stroke: #0969da } .s1 { stroke: #bc4c00 }
circle.s0, text.s0 { fill: #0969da; stroke: none } circle.s1, text.s1 { fill: #bc4c00; stroke: none }
@media (prefers-color-scheme: dark) {
text { fill: #e6edf3 }
.faint { fill: #9198a1 }
.grid { stroke: #3d444d }
.s0 { stroke: #58a6ff } .s1 { stroke: #f0883e }
circle.s0, text.s0 { fill: #58a6ff } circle.s1, text.s1 { fill: #f0883e }
}
";

/// A logarithmic axis over whole decades.
struct Axis {
    /// Exponents of ten at both ends.
    decades: (i32, i32),
    /// Pixels at both ends.
    pixels: (f64, f64),
}

impl Axis {
    /// Around all `values`, which are positive.
    fn new(values: impl Iterator<Item = f64>, pixels: (f64, f64)) -> Axis {
        let exponents = values.map(f64::log10);
        let (low, high) = exponents.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), e| {
            (low.min(e), high.max(e))
        });
        let decades = if low <= high {
            (
                low.floor() as i32,
                (high.floor() as i32 + 1).max(low.floor() as i32 + 1),
            )
        } else {
            (0, 1)
        };
        Axis { decades, pixels }
    }

    fn at(&self, value: f64) -> f64 {
        let (low, high) = (f64::from(self.decades.0), f64::from(self.decades.1));
        let part = (value.log10() - low) / (high - low);
        self.pixels.0 + part * (self.pixels.1 - self.pixels.0)
    }

    fn ticks(&self) -> impl Iterator<Item = f64> {
        (self.decades.0..=self.decades.1).map(|exponent| 10f64.powi(exponent))
    }

    fn low(&self) -> f64 {
        10f64.powi(self.decades.0)
    }

    fn high(&self) -> f64 {
        10f64.powi(self.decades.1)
    }
}

/// The picture. Of more than two series, the first and the last are drawn.
pub fn svg(title: &str, subtitle: &str, series: &[Series]) -> String {
    let usable = |value: f64| value > 0.0 && value.is_finite(); // a logarithm has no place for others
    let with_roof: Vec<&Series> = series.iter().filter(|s| usable(s.read) && usable(s.dot)).collect();
    let shown = match with_roof[..] {
        [first, .., last] => vec![first, last],
        _ => with_roof,
    };
    let on_axes = |point: &&Point| usable(point.macs_per_byte) && usable(point.macs_per_s);
    let points = || shown.iter().flat_map(|series| &series.points).filter(on_axes);
    // The ridge, where the roofs meet, belongs into the picture too.
    let ridges = shown.iter().map(|series| series.dot / series.read);
    let x = Axis::new(points().map(|p| p.macs_per_byte).chain(ridges), (LEFT, RIGHT));
    let y = Axis::new(
        points()
            .map(|p| p.macs_per_s)
            .chain(shown.iter().map(|series| series.dot)),
        (BOTTOM, TOP),
    );
    let mut out = String::new();
    text(&mut out, "title", (LEFT, 24.0), "start", title);
    text(&mut out, "faint", (LEFT, 44.0), "start", subtitle);
    for value in x.ticks() {
        let at = x.at(value);
        line(&mut out, "grid", (at, TOP), (at, BOTTOM));
        text(&mut out, "faint", (at, BOTTOM + 18.0), "middle", &number(value));
    }
    for value in y.ticks() {
        let at = y.at(value);
        line(&mut out, "grid", (LEFT, at), (RIGHT, at));
        text(&mut out, "faint", (LEFT - 8.0, at + 4.0), "end", &number(value / 1e9));
    }
    text(
        &mut out,
        "faint",
        (RIGHT, BOTTOM + 38.0),
        "end",
        "multiply-adds for a byte read",
    );
    text(
        &mut out,
        "faint",
        (LEFT, TOP - 6.0),
        "start",
        "10\u{2079} multiply-adds a second",
    );
    let at = |point: &Point| (x.at(point.macs_per_byte), y.at(point.macs_per_s));
    let mut labels = Labels::new(PLOT, points().map(at));
    for (class, series) in CLASSES.iter().zip(&shown) {
        roof(&mut out, class, series, (&x, &y), &mut labels);
    }
    let (mut classes, mut marked) = (Vec::new(), Vec::new());
    for (class, series) in CLASSES.iter().zip(&shown) {
        for point in series.points.iter().filter(on_axes) {
            classes.push(*class);
            marked.push((at(point), format!("{}, {}", point.label, series.name)));
        }
    }
    let mut in_legend = Vec::new();
    for ((&class, (at, full)), label) in classes.iter().zip(&marked).zip(labels.beside(&marked)) {
        let _ = writeln!(
            out,
            "<circle class=\"{class}\" cx=\"{:.1}\" cy=\"{:.1}\" r=\"4\"/>",
            at.0, at.1
        );
        if let Some([from, to]) = label.leader {
            line(&mut out, &format!("leader {class}"), from, to);
        }
        text(
            &mut out,
            class,
            label.anchor(),
            if label.ends { "end" } else { "start" },
            &label.text,
        );
        if label.text != *full {
            in_legend.push((class, format!("{}  {full}", label.text)));
        }
    }
    let height = HEIGHT + legend(&mut out, &in_legend);
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-label=\"{}\">\n<style>{STYLE}</style>\n\
         {out}</svg>\n",
        escape(title)
    )
}

/// What the numbers at points stand for, in columns below the plot; its height.
fn legend(out: &mut String, lines: &[(&str, String)]) -> f64 {
    const EDGE: f64 = 20.0;
    let letters = lines.iter().map(|(_, line)| line.chars().count()).max().unwrap_or(0);
    let columns = ((RIGHT - EDGE) / (letters as f64 * LETTER)).clamp(1.0, 3.0) as usize;
    let rows = lines.len().div_ceil(columns);
    for (i, (class, line)) in lines.iter().enumerate() {
        let left = EDGE + (i / rows) as f64 * (RIGHT - EDGE) / columns as f64;
        text(out, class, (left, HEIGHT + (i % rows) as f64 * LINE), "start", line);
    }
    rows as f64 * LINE
}

/// The slope from the lower or left edge to the ridge, and the level from there on.
fn roof(out: &mut String, class: &str, series: &Series, (x, y): (&Axis, &Axis), labels: &mut Labels) {
    let from = x.low().max(y.low() / series.read);
    let ridge = (series.dot / series.read).clamp(from, x.high());
    let height = |macs_per_byte: f64| y.at((macs_per_byte * series.read).min(series.dot));
    let [a, b, c] = [from, ridge, x.high()].map(|at| (x.at(at), height(at)));
    let _ = writeln!(
        out,
        "<path class=\"roof {class}\" d=\"M{:.1} {:.1} L{:.1} {:.1} L{:.1} {:.1}\"/>",
        a.0, a.1, b.0, b.1, c.0, c.1
    );
    labels.line(a, b);
    labels.line(b, c);
    let name = format!(
        "{}: reads {:.1} GB/s, dot products {:.0} GMAC/s",
        series.name,
        series.read / 1e9,
        series.dot / 1e9
    );
    let label = labels.above((b.0 + 8.0, b.1 - 6.0), name);
    text(out, class, label.anchor(), "start", &label.text);
}

fn line(out: &mut String, class: &str, from: (f64, f64), to: (f64, f64)) {
    let _ = writeln!(
        out,
        "<path class=\"{class}\" d=\"M{:.1} {:.1} L{:.1} {:.1}\"/>",
        from.0, from.1, to.0, to.1
    );
}

fn text(out: &mut String, class: &str, at: (f64, f64), anchor: &str, text: &str) {
    let _ = writeln!(
        out,
        "<text class=\"{class}\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"{anchor}\">{}</text>",
        at.0,
        at.1,
        escape(text)
    );
}

/// A power of ten as people write it.
fn number(value: f64) -> String {
    if value < 1.0 {
        format!("{value:.3}").trim_end_matches('0').to_owned()
    } else {
        format!("{value:.0}")
    }
}

fn escape(text: &str) -> String {
    // Control characters, which a model's name may hold, cannot stand in XML at all.
    let plain = text.chars().filter(|c| !c.is_control());
    plain.fold(String::new(), |mut out, c| {
        match c {
            '&' => out += "&amp;",
            '<' => out += "&lt;",
            '>' => out += "&gt;",
            '"' => out += "&quot;",
            c => out.push(c),
        }
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(threads: usize) -> Series {
        let point = |label: &str, macs_per_byte, macs_per_s| Point {
            label: label.to_owned(),
            macs_per_byte,
            macs_per_s,
        };
        Series {
            name: format!("{threads} threads"),
            read: 20e9 * threads as f64,
            dot: 237e9 * threads as f64,
            points: vec![
                point("decode <64>", 2.0, 36e9 * threads as f64),
                point("decode & context", 1.9, 30e9 * threads as f64),
                point("prefill 512", 900.0, 200e9 * threads as f64),
            ],
        }
    }

    /// Every element is closed in order, attributes are quoted, text holds no bare markup.
    fn assert_well_formed(xml: &str) {
        let (mut open, mut rest) = (Vec::new(), xml);
        while let Some((before, after)) = rest.split_once('<') {
            assert!(!before.contains('>'), "bare > in {before:?}");
            for entity in before.split('&').skip(1) {
                let name = entity.split(';').next().unwrap();
                assert!(["amp", "lt", "gt", "quot"].contains(&name), "&{entity}");
            }
            let (tag, after) = after.split_once('>').expect("a tag ends");
            assert_eq!(tag.matches('"').count() % 2, 0, "{tag}");
            if let Some(name) = tag.strip_prefix('/') {
                assert_eq!(open.pop(), Some(name), "{xml}");
            } else if !tag.ends_with('/') {
                open.push(tag.split([' ', '\n']).next().unwrap());
            }
            rest = after;
        }
        assert!(open.is_empty() && rest.trim().is_empty(), "{open:?} {rest}");
    }

    #[test]
    fn the_picture_is_well_formed_and_the_same_every_time() {
        let picture = svg(
            "A \"title\" & <more>",
            "by\u{1b}[31m hand",
            &[series(1), series(2), series(4)],
        );
        assert_well_formed(&picture);
        assert_eq!(
            picture,
            svg(
                "A \"title\" & <more>",
                "by\u{1b}[31m hand",
                &[series(1), series(2), series(4)]
            )
        );
        assert!(picture.contains("by[31m hand"), "no control character");
        assert_eq!(picture.matches("class=\"roof").count(), 2);
        assert!(picture.contains("1 threads") && picture.contains("4 threads") && !picture.contains("2 threads"));
        assert_eq!(picture.matches("<circle").count(), 6);
        assert!(picture.contains("prefers-color-scheme: dark"));
    }

    #[test]
    fn points_lie_under_their_roof_and_labels_apart() {
        let picture = svg("t", "s", &[series(1)]);
        let attribute = |line: &str, name: &str| -> f64 {
            let (_, after) = line.split_once(&format!(" {name}=\"")).unwrap();
            after.split('"').next().unwrap().parse().unwrap()
        };
        let x = Axis::new([1.9, 900.0].into_iter(), (LEFT, RIGHT));
        let y = Axis::new([30e9, 237e9].into_iter(), (BOTTOM, TOP));
        let circles: Vec<_> = picture.lines().filter(|l| l.starts_with("<circle")).collect();
        assert!((attribute(circles[0], "cx") - x.at(2.0)).abs() < 0.06);
        assert!((attribute(circles[0], "cy") - y.at(36e9)).abs() < 0.06);
        assert!(attribute(circles[0], "cy") > y.at(40e9), "below 2 macs/byte x 20 GB/s");
        let decode: Vec<_> = picture.lines().filter(|l| l.contains(">decode")).collect();
        let gap = attribute(decode[0], "y") - attribute(decode[1], "y");
        assert!(gap.abs() >= LINE, "{decode:?}");
    }

    #[test]
    fn of_many_points_some_are_in_a_legend() {
        let mut many = series(4);
        many.points = (0..30)
            .map(|i| Point {
                label: format!("decode of {} sequences at {}: 25 tokens/s", i % 6 + 1, i / 6 * 256),
                macs_per_byte: 4.0 * f64::from(i % 6 + 1) * (1.0 - f64::from(i / 6) * 0.03),
                macs_per_s: 40e9 * f64::from(i % 6 + 1) * (1.0 - f64::from(i / 6) * 0.05),
            })
            .collect();
        let picture = svg("t", "s", &[series(1), many]);
        assert_well_formed(&picture);
        assert_eq!(picture.matches("<circle").count(), 33);
        for label in (1..=6).map(|n| format!("decode of {n} sequences at 0: ")) {
            assert_eq!(picture.matches(&label).count(), 1, "{label}");
        }
        assert!(picture.contains(">1  decode &lt;64&gt;") && picture.contains(">33  decode of 6 sequences at 1024: "));
        assert!(
            svg("t", "s", &[series(1)]).contains("viewBox=\"0 0 800 460\""),
            "no legend"
        );
    }

    #[test]
    fn nothing_measured_is_a_picture_too() {
        assert_well_formed(&svg("t", "s", &[]));
        let mut broken = series(1);
        broken.points[0].macs_per_s = f64::NAN;
        assert_eq!(svg("t", "s", &[broken.clone()]).matches("<circle").count(), 2);
        broken.read = 0.0;
        assert_eq!(svg("t", "s", &[broken]).matches("<circle").count(), 0);
        assert_eq!([0.001, 0.1, 1.0, 1000.0].map(number), ["0.001", "0.1", "1", "1000"]);
    }
}
