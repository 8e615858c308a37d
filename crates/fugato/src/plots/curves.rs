//! What several policies (or servers) hold: attainment and goodput against load.

use super::Chart;
use super::canvas::{
    Canvas, GREY, HEIGHT, Mark, Point, Shape, Stroke, Style, WIDTH, fitted, width_of,
};
use super::frame::{
    Area, Axis, END_LABEL, END_LABEL_APART, MARGIN, axes, end_labels, model_colour, titled,
};
use super::scale::{Scale, Spread, linear_ticks, number};
use fugato_core::capacity;

const AREA: Area = Area {
    left: MARGIN + 44.0,
    top: 140.0,
    right: WIDTH - 210.0,
    bottom: HEIGHT - 112.0,
};

/// How much of the picture the names beside the lines may take; longer ones are cut.
const NAMES_MOST: f64 = 0.4 * WIDTH;

/// How much wider heavy letters are.
const BOLD: f64 = 1.06;

/// The marks of the lines, so that colour is not all that tells them apart.
const SHAPES: [Shape; 6] = [
    Shape::Circle,
    Shape::Square,
    Shape::Triangle,
    Shape::Diamond,
    Shape::Cross,
    Shape::Star,
];

/// What several systems did with the same loads.
#[derive(Clone, Debug, PartialEq)]
pub struct LoadCurves {
    /// Whether a simulator made the numbers; one chart never mixes both.
    pub simulated: bool,
    /// What was run, and where.
    pub what: String,
    /// What `load` is, with its unit: `load, requests/s`.
    pub load_title: String,
    /// The attainment aimed at, from 0 to 1.
    pub aim: f64,
    /// A line for each system.
    pub lines: Vec<LoadLine>,
}

/// One system.
#[derive(Clone, Debug, PartialEq)]
pub struct LoadLine {
    /// Its name.
    pub name: String,
    /// Its points, by rising load.
    pub points: Vec<LoadPoint>,
}

/// What a system did with one load.
#[derive(Clone, Debug, PartialEq)]
pub struct LoadPoint {
    /// The load.
    pub load: f64,
    /// Attainment, from 0 to 1, of each seed.
    pub attainment: Vec<f64>,
    /// Replies in time per second, of each seed.
    pub goodput: Vec<f64>,
}

/// Draws `attainment.svg` and `goodput.svg`. Points without a value are left out.
pub fn against_load(curves: &LoadCurves) -> Vec<Chart> {
    let percent = |point: &LoadPoint| -> Vec<f64> {
        point.attainment.iter().map(|part| part * 100.0).collect()
    };
    let attainment = Plot {
        file: "attainment.svg",
        title: "Attainment against load",
        subtitle: "Replies within the objective, of all requests",
        y_title: "attainment, %",
        aim: Some(curves.aim * 100.0),
        most: Some(100.0),
    };
    let goodput = Plot {
        file: "goodput.svg",
        title: "Goodput against load",
        subtitle: "Replies within the objective per second",
        y_title: "goodput, replies/s",
        aim: None,
        most: None,
    };
    vec![
        attainment.draw(curves, percent),
        goodput.draw(curves, |point| point.goodput.clone()),
    ]
}

struct Plot {
    file: &'static str,
    title: &'static str,
    subtitle: &'static str,
    y_title: &'static str,
    aim: Option<f64>,
    most: Option<f64>,
}

impl Plot {
    fn draw(&self, curves: &LoadCurves, values: impl Fn(&LoadPoint) -> Vec<f64>) -> Chart {
        let seeds = curves.lines.iter().flat_map(|line| &line.points);
        let seeds = seeds.map(|point| values(point).len()).max().unwrap_or(0);
        let subtitle = match seeds {
            0 | 1 => format!("{}; one seed", self.subtitle),
            seeds => format!(
                "{}; mean of {seeds} seeds, bars from the least to the most",
                self.subtitle
            ),
        };
        let origin = match curves.simulated {
            true => format!("SIMULATED, not measured. {}", curves.what),
            false => format!("Measured. {}", curves.what),
        };
        let mut canvas = titled(self.title, &subtitle, &origin, curves.simulated);
        let all = curves.lines.iter().flat_map(|line| &line.points);
        let loads = all.clone().map(|point| point.load);
        let most_load = loads.fold(0.0, f64::max);
        let highest = all.flat_map(&values).fold(0.0, f64::max);
        let most = self.most.unwrap_or(highest * 1.06).max(1e-9);
        let names: Vec<String> = curves.lines.iter().map(|line| named(&line.name)).collect();
        let area = beside(&names);
        let x = Scale::new(
            Spread::Linear,
            (0.0, most_load.max(1e-9)),
            (area.left, area.right),
        );
        let y = Scale::new(Spread::Linear, (0.0, most), (area.bottom, area.top));
        let ticks = |scale: &Scale, most, wanted| {
            linear_ticks(0.0, most, wanted)
                .into_iter()
                .map(|tick| (scale.at(tick), number(tick)))
                .collect()
        };
        let x_axis = Axis {
            ticks: ticks(&x, most_load, 8),
            title: &curves.load_title,
        };
        let y_axis = Axis {
            ticks: ticks(&y, most, 6),
            title: self.y_title,
        };
        axes(&mut canvas, area, &x_axis, &y_axis);
        self.aim(&mut canvas, area, &y);
        let mut labels = Vec::new();
        for (index, line) in curves.lines.iter().enumerate() {
            let colour = model_colour(index);
            let mark = Mark {
                shape: SHAPES[index % SHAPES.len()],
                radius: 5.5,
                colour,
                hollow: index >= SHAPES.len(),
            };
            let points = curve(&mut canvas, line, mark, &values, |load, value| {
                (x.at(load), y.at(value))
            });
            if let Some(end) = points.last() {
                labels.push((*end, names[index].clone(), colour.to_owned()));
            }
        }
        end_labels(&mut canvas, area, &labels);
        Chart {
            file: self.file.to_owned(),
            svg: canvas.finish(),
        }
    }

    /// The line that must not be fallen below.
    fn aim(&self, canvas: &mut Canvas, area: Area, y: &Scale) {
        let Some(aim) = self.aim else {
            return;
        };
        let at = y.at(aim);
        let ends = [(area.left, at), (area.right, at)];
        canvas.line(&ends, Stroke::dashed(GREY, 2.0));
        // Loads begin above zero, so that no line is there.
        let text = format!("aim: {} %", number(aim));
        let at = (area.left + 6.0, at + 20.0);
        canvas.text(at, &text, Style::plain(15.0, GREY));
    }
}

/// A line's name as it is written beside it.
fn named(name: &str) -> String {
    let most = NAMES_MOST - END_LABEL_APART - MARGIN;
    fitted(name, END_LABEL, most / BOLD)
}

/// The area that leaves the names their place at the right edge, however few or short they are.
fn beside(names: &[String]) -> Area {
    let widths = names.iter().map(|name| width_of(name, END_LABEL));
    let names = END_LABEL_APART + widths.fold(0.0, f64::max) * BOLD + MARGIN;
    Area {
        right: AREA.right.min(WIDTH - names),
        ..AREA
    }
}

/// A line through the means, with a bar over the seeds and a mark at each; gives the means'
/// places.
fn curve(
    canvas: &mut Canvas,
    line: &LoadLine,
    mark: Mark<'_>,
    values: &impl Fn(&LoadPoint) -> Vec<f64>,
    place: impl Fn(f64, f64) -> Point,
) -> Vec<Point> {
    let spread = |point| Some((point, capacity::Spread::of(&values(point))?));
    let spreads: Vec<_> = line.points.iter().filter_map(spread).collect();
    let means = spreads
        .iter()
        .map(|(point, spread)| place(point.load, spread.mean));
    let means: Vec<Point> = means.collect();
    canvas.line(&means, Stroke::solid(mark.colour, 2.6));
    for ((point, spread), at) in spreads.iter().zip(&means) {
        if spread.low < spread.high {
            let ends = [spread.low, spread.high].map(|end| place(point.load, end));
            canvas.line(&ends, Stroke::solid(mark.colour, 2.0));
            for (x, y) in ends {
                canvas.line(
                    &[(x - 5.0, y), (x + 5.0, y)],
                    Stroke::solid(mark.colour, 2.0),
                );
            }
        }
        let hint = format!(
            "{} at {}: {}, {} to {} over {} seeds",
            line.name,
            number(point.load),
            number(spread.mean),
            number(spread.low),
            number(spread.high),
            spread.count
        );
        canvas.mark(*at, mark, Some(&hint));
    }
    means
}

#[cfg(test)]
mod tests {
    use super::*;
    use roxmltree::Document;

    fn curves(lines: usize) -> LoadCurves {
        let names = [
            "dstack",
            "temporal",
            "edf",
            "uncontrolled",
            "gslice",
            "nexus",
            "max-min",
        ];
        let line = |(index, name): (usize, &&str)| {
            let knee = 400.0 + 90.0 * index as f64;
            let point = |step: u32| {
                let load = 100.0 * f64::from(step);
                let part = (1.0 - ((load - knee).max(0.0) / 500.0).powi(2)).max(0.02);
                let attainment = [0.99, 1.0, 0.97].map(|noise| part * noise).to_vec();
                let goodput = attainment.iter().map(|part| part * load).collect();
                LoadPoint {
                    load,
                    attainment,
                    goodput,
                }
            };
            LoadLine {
                name: (*name).to_owned(),
                points: (1..=10).map(point).collect(),
            }
        };
        LoadCurves {
            simulated: true,
            what: "C-4 on 80 slices, 60 s each".to_owned(),
            load_title: "load, requests/s".to_owned(),
            aim: 0.99,
            lines: names.iter().enumerate().take(lines).map(line).collect(),
        }
    }

    #[test]
    fn both_charts_are_well_formed_and_lie_on_their_page() {
        for lines in [0, 1, 7] {
            for chart in against_load(&curves(lines)) {
                let document = Document::parse(&chart.svg).expect("well-formed XML");
                for node in document.descendants() {
                    for (name, most) in [("x", WIDTH), ("cx", WIDTH), ("y", HEIGHT), ("cy", HEIGHT)]
                    {
                        if let Some(value) = node.attribute(name) {
                            let value: f64 = value.parse().expect("a number");
                            assert!((0.0..=most).contains(&value), "{}: {node:?}", chart.file);
                        }
                    }
                }
                assert!(chart.svg.contains("SIMULATED"));
            }
        }
    }

    #[test]
    fn names_with_settings_stay_on_the_page() {
        let usual = against_load(&curves(7));
        let long = "clipper:batch_target=100:max_batch_size=1";
        let endless = "fugato:".to_owned() + &"leave_room=false:".repeat(9);
        for name in [long, &endless] {
            let mut renamed = curves(7);
            name.clone_into(&mut renamed.lines[3].name);
            let charts = against_load(&renamed);
            for (chart, usual) in charts.iter().zip(&usual) {
                let document = Document::parse(&chart.svg).expect("well-formed XML");
                let all = document.descendants().filter_map(|node| {
                    let size = node.attribute("font-size")?.parse().ok()?;
                    let (x, text): (f64, _) = (node.attribute("x")?.parse().ok()?, node.text()?);
                    let starts = node.attribute("text-anchor").is_none_or(|at| at == "start");
                    let heavy = node.attribute("font-weight").is_some();
                    let wide = width_of(text, size) * if heavy { BOLD } else { 1.0 };
                    starts.then_some((text.to_owned(), x + wide))
                });
                let all: Vec<(String, f64)> = all.collect();
                for (text, end) in &all {
                    assert!(*end <= WIDTH, "{}: `{text}` ends at {end}", chart.file);
                }
                assert_eq!(all.iter().any(|(text, _)| text == name), name == long);
                assert_ne!(&chart.svg, &usual.svg);
            }
        }
    }

    #[test]
    fn the_aim_and_the_spread_are_said() {
        let charts = against_load(&curves(2));
        assert!(charts[0].svg.contains("aim: 99 %"));
        for (chart, title) in charts.iter().zip(["Attainment", "Goodput"]) {
            assert!(
                chart.svg.contains(&format!("{title} against load")),
                "{}",
                chart.file
            );
        }
        assert!(!charts[1].svg.contains("Attainment"));
        assert!(charts[0].svg.contains("mean of 3 seeds"));
        assert!(charts[0].svg.contains("over 3 seeds"));
        assert!(!charts[1].svg.contains("aim:"));
        let mut measured = curves(1);
        measured.simulated = false;
        assert!(!against_load(&measured)[0].svg.contains("SIMULATED"));
    }
}
