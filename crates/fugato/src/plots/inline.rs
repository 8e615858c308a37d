//! Small charts for pages: half a slide wide, in the page's colours.

use super::canvas::{
    Anchor, Canvas, FAINT, GREY, INK, Point, Stroke, Style, WHITE, fitted, width_of,
};
use super::frame::{Area, Axis, MODELS, axes, model_colour};
use super::scale::{Scale, Spread, linear_ticks, log_ticks, number};

const WIDTH: f64 = 720.0;

/// Lines over one horizontal axis.
#[derive(Debug)]
pub(crate) struct Lines<'a> {
    pub(crate) title: &'a str,
    pub(crate) x_title: &'a str,
    pub(crate) y_title: &'a str,
    /// Equal ratios equally far apart; x must be above zero.
    pub(crate) log_x: bool,
    /// The highest value of the vertical axis, where it does not follow from the data.
    pub(crate) most: Option<f64>,
    pub(crate) series: Vec<Series>,
}

/// A line of a chart.
#[derive(Debug)]
pub(crate) struct Series {
    pub(crate) name: String,
    /// By rising x.
    pub(crate) points: Vec<(f64, f64)>,
    pub(crate) dashed: bool,
}

impl Lines<'_> {
    /// The chart, to stand in a page. `None` without a point.
    pub(crate) fn svg(&self) -> Option<String> {
        let area = Area {
            left: 62.0,
            top: 70.0,
            right: WIDTH - 14.0,
            bottom: 330.0,
        };
        let points = self.series.iter().flat_map(|series| &series.points);
        let (mut least, mut most) = (f64::INFINITY, f64::NEG_INFINITY);
        let mut highest = 0.0_f64;
        for (x, y) in points {
            (least, most) = (least.min(*x), most.max(*x));
            highest = highest.max(*y);
        }
        if !least.is_finite() {
            return None;
        }
        let highest = self.most.unwrap_or(highest * 1.06).max(1e-9);
        let (spread, least) = match self.log_x {
            true => (Spread::Log, least),
            false => (Spread::Linear, least.min(0.0)),
        };
        let x = Scale::new(spread, (least, most), (area.left, area.right));
        let y = Scale::new(Spread::Linear, (0.0, highest), (area.bottom, area.top));
        let mut canvas = Canvas::sized(self.title, self.title, (WIDTH, 386.0));
        let ticks = match self.log_x {
            true => log_ticks(least, most),
            false => linear_ticks(least, most, 7),
        };
        let x_axis = Axis {
            ticks: ticks
                .into_iter()
                .map(|tick| (x.at(tick), number(tick)))
                .collect(),
            title: self.x_title,
        };
        let y_axis = Axis {
            ticks: linear_ticks(0.0, highest, 5)
                .into_iter()
                .map(|tick| (y.at(tick), number(tick)))
                .collect(),
            title: self.y_title,
        };
        axes(&mut canvas, area, &x_axis, &y_axis);
        for (index, series) in self.series.iter().enumerate() {
            let place = |(px, py): &(f64, f64)| -> Point { (x.at(*px), y.at(*py)) };
            let points: Vec<Point> = series.points.iter().map(place).collect();
            canvas.line(&points, series.stroke(index));
        }
        let signs = self.series.iter().enumerate().map(|(index, series)| {
            let stroke = series.stroke(index);
            (stroke.colour, stroke.dashed, series.name.as_str())
        });
        legend(&mut canvas, signs);
        Some(themed(&canvas.finish()))
    }
}

impl Series {
    fn stroke(&self, index: usize) -> Stroke<'static> {
        match self.dashed {
            true => Stroke::dashed(GREY, 2.2),
            false => Stroke::solid(model_colour(index), 2.4),
        }
    }
}

/// A row of colours with their meanings at the head of a chart; a dashed one is a line's.
fn legend<'a>(canvas: &mut Canvas, signs: impl Iterator<Item = (&'static str, bool, &'a str)>) {
    let mut at = 8.0;
    for (colour, dashed, name) in signs {
        let name = fitted(name, 15.0, 190.0);
        let end = at + 20.0 + width_of(&name, 15.0);
        if end > WIDTH {
            canvas.text((at, 18.0), "\u{2026}", Style::plain(15.0, GREY));
            return;
        }
        match dashed {
            true => canvas.line(
                &[(at, 13.0), (at + 14.0, 13.0)],
                Stroke::dashed(colour, 2.2),
            ),
            false => canvas.rect((at, 6.0), (14.0, 14.0), colour, None),
        }
        canvas.text((at + 20.0, 18.0), &name, Style::plain(15.0, INK));
        at = end + 24.0;
    }
}

/// Rows of bars, each of one or several parts.
#[derive(Debug)]
pub(crate) struct Bars<'a> {
    pub(crate) title: &'a str,
    /// What is said behind a bar: its sum with this unit.
    pub(crate) unit: &'a str,
    /// The names of the parts, in order.
    pub(crate) parts: Vec<String>,
    /// By row, its label and the parts' values.
    pub(crate) rows: Vec<(String, Vec<f64>)>,
    /// The value of a full bar, where it is not the longest one.
    pub(crate) full: Option<f64>,
    /// A value to compare with, marked on all rows.
    pub(crate) aim: Option<f64>,
}

impl Bars<'_> {
    /// The chart, to stand in a page. `None` without a row.
    pub(crate) fn svg(&self) -> Option<String> {
        if self.rows.is_empty() {
            return None;
        }
        let step = 34.0;
        let head = if self.parts.len() > 1 { 34.0 } else { 6.0 };
        let height = head + step * self.rows.len() as f64 + 10.0;
        let (left, right) = (190.0, WIDTH - 110.0);
        let mut canvas = Canvas::sized(self.title, self.title, (WIDTH, height));
        let sum = |values: &[f64]| values.iter().sum::<f64>();
        let longest = self.rows.iter().map(|(_, values)| sum(values));
        let full = self.full.unwrap_or(longest.fold(0.0, f64::max)).max(1e-9);
        let x = Scale::new(Spread::Linear, (0.0, full), (left, right));
        if self.parts.len() > 1 {
            let parts = self.parts.iter().enumerate();
            let signs = parts.map(|(index, part)| (model_colour(index), false, part.as_str()));
            legend(&mut canvas, signs);
        }
        for (index, (label, values)) in self.rows.iter().enumerate() {
            let top = head + step * index as f64;
            let label = fitted(label, 16.0, left - 16.0);
            let style = Style::plain(16.0, INK).anchored(Anchor::End);
            canvas.text((left - 12.0, top + 22.0), &label, style);
            canvas.rect((left, top + 7.0), (right - left, 20.0), FAINT, None);
            let mut from = 0.0;
            for (part, value) in values.iter().enumerate() {
                let ends = [from, (from + value).min(full)].map(|end| x.at(end));
                let hint = self.parts.get(part);
                let hint = hint.map(|name| format!("{name}: {} {}", number(*value), self.unit));
                if ends[1] > ends[0] {
                    let size = (ends[1] - ends[0], 20.0);
                    let colour = model_colour(part);
                    canvas.rect((ends[0], top + 7.0), size, colour, hint.as_deref());
                }
                from += value;
            }
            let text = format!("{} {}", number(sum(values)), self.unit);
            canvas.text((right + 10.0, top + 22.0), &text, Style::plain(16.0, GREY));
        }
        if let Some(aim) = self.aim {
            let at = x.at(aim);
            let ends = [(at, head + 2.0), (at, height - 8.0)];
            canvas.line(&ends, Stroke::dashed(INK, 2.0));
        }
        Some(themed(&canvas.finish()))
    }
}

/// A chart as part of a page: without the head of a file, and in the page's colours, which
/// are custom properties so that a dark page can set others.
pub(crate) fn themed(svg: &str) -> String {
    let start = svg.find("<svg").unwrap_or(0);
    let mut themed = svg[start..].trim_end().to_owned();
    let fixed = [
        (INK, "ink"),
        (GREY, "grey"),
        (FAINT, "faint"),
        (WHITE, "paper"),
    ];
    let fixed = fixed.map(|(colour, name)| (colour, name.to_owned()));
    let models = MODELS.iter().enumerate();
    let models = models.map(|(index, colour)| (*colour, format!("c{index}")));
    for (colour, name) in fixed.into_iter().chain(models) {
        for attribute in ["fill", "stroke"] {
            let from = format!("{attribute}=\"{colour}\"");
            let to = format!("{attribute}=\"var(--{name})\"");
            themed = themed.replace(&from, &to);
        }
    }
    themed
}

/// The custom properties that [`themed`] charts use, for a light and for a dark page.
pub(crate) fn properties() -> (String, String) {
    let light = MODELS.iter().enumerate();
    let light = light.map(|(index, colour)| format!("--c{index}:{colour};"));
    let dark = [
        "#79a8e8", "#f0a95a", "#4fc4b6", "#e27fa9", "#a79bf0", "#c9a766", "#86c575", "#ee8a86",
        "#8fc7c9", "#a7adb9",
    ];
    let dark = dark.iter().enumerate();
    let dark = dark.map(|(index, colour)| format!("--c{index}:{colour};"));
    (light.collect(), dark.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chart_without_data_is_none() {
        let lines = Lines {
            title: "t",
            x_title: "x",
            y_title: "y",
            log_x: false,
            most: None,
            series: Vec::new(),
        };
        assert_eq!(lines.svg(), None);
        let bars = Bars {
            title: "t",
            unit: "",
            parts: Vec::new(),
            rows: Vec::new(),
            full: None,
            aim: None,
        };
        assert_eq!(bars.svg(), None);
    }

    #[test]
    fn charts_of_a_page_have_no_fixed_colour() {
        let lines = Lines {
            title: "<t>",
            x_title: "x",
            y_title: "y",
            log_x: true,
            most: None,
            series: vec![Series {
                name: "</svg><script>".to_owned(),
                points: vec![(1.0, 2.0), (10.0, 3.0)],
                dashed: false,
            }],
        };
        let svg = lines.svg().expect("points");
        assert!(svg.starts_with("<svg") && !svg.contains("<script"));
        assert!(!svg.contains("=\"#"), "{svg}");
        assert!(svg.contains("var(--c0)") && svg.contains("var(--ink)"));
    }
}
