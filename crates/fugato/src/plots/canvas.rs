//! A page of shapes and text, written as SVG.
//!
//! Attributes stand on the elements themselves, not in a style sheet, since programs for
//! slides read those; coordinates have one decimal. The `svg` crate sorts attributes and
//! escapes text, so equal calls give equal bytes.

use std::collections::BTreeSet;
use svg::node::element::Element;
use svg::node::{Node, Text};

/// Pixels from the left and from the top.
pub(super) type Point = (f64, f64);

/// 16:9, as a slide.
pub(super) const WIDTH: f64 = 1280.0;
pub(super) const HEIGHT: f64 = 720.0;

pub(super) const INK: &str = "#22252b";
pub(super) const GREY: &str = "#6b7280";
pub(super) const FAINT: &str = "#e5e7eb";
pub(super) const WHITE: &str = "#ffffff";

/// What is where it is read without the program's fonts.
const FONTS: &str = "Inter, Helvetica, Arial, 'DejaVu Sans', sans-serif";

/// Pixels of a stripe with the white beside it, and of the white.
const STRIPE: f64 = 8.0;
const STRIPE_GAP: f64 = 0.8;

/// How a line is drawn.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stroke<'a> {
    pub(super) colour: &'a str,
    pub(super) width: f64,
    pub(super) dashed: bool,
}

impl<'a> Stroke<'a> {
    pub(super) fn solid(colour: &'a str, width: f64) -> Self {
        Self {
            colour,
            width,
            dashed: false,
        }
    }

    pub(super) fn dashed(colour: &'a str, width: f64) -> Self {
        Self {
            colour,
            width,
            dashed: true,
        }
    }
}

/// The shape of a mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    Circle,
    Triangle,
    Diamond,
    Square,
    Star,
    Cross,
}

/// A mark of a radius.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mark<'a> {
    pub(super) shape: Shape,
    pub(super) radius: f64,
    pub(super) colour: &'a str,
    /// Only its outline, on white.
    pub(super) hollow: bool,
}

impl Mark<'_> {
    /// The mark filled, as for what is decided.
    pub(super) fn settled(self) -> Self {
        Self {
            hollow: false,
            ..self
        }
    }
}

/// Where the point given for a text lies in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Anchor {
    Start,
    Middle,
    End,
}

/// How a text is set.
#[derive(Clone, Copy, Debug)]
pub(super) struct Style<'a> {
    pub(super) size: f64,
    pub(super) colour: &'a str,
    pub(super) anchor: Anchor,
    pub(super) bold: bool,
}

impl<'a> Style<'a> {
    pub(super) fn plain(size: f64, colour: &'a str) -> Self {
        Self {
            size,
            colour,
            anchor: Anchor::Start,
            bold: false,
        }
    }

    pub(super) fn bold(self) -> Self {
        Self { bold: true, ..self }
    }

    pub(super) fn anchored(self, anchor: Anchor) -> Self {
        Self { anchor, ..self }
    }
}

/// The page.
#[derive(Debug)]
pub(super) struct Canvas {
    root: Element,
    /// The patterns that there are, by their ids.
    fills: BTreeSet<String>,
}

impl Canvas {
    /// A white page of a slide's size; `title` and `description` are what screen readers say.
    pub(super) fn new(title: &str, description: &str) -> Self {
        Self::sized(title, description, (WIDTH, HEIGHT))
    }

    /// As [`Canvas::new`], of another size.
    pub(super) fn sized(title: &str, description: &str, (width, height): (f64, f64)) -> Self {
        let mut root = Element::new("svg");
        root.assign("xmlns", "http://www.w3.org/2000/svg");
        root.assign("viewBox", format!("0 0 {width} {height}"));
        root.assign("width", width);
        root.assign("height", height);
        root.assign("role", "img");
        root.assign("font-family", FONTS);
        let fills = BTreeSet::new();
        let mut canvas = Self { root, fills };
        for (name, text) in [("title", title), ("desc", description)] {
            let mut element = Element::new(name);
            element.append(Text::new(readable(text)));
            canvas.root.append(element);
        }
        canvas.rect((0.0, 0.0), (width, height), WHITE, None);
        canvas
    }

    /// A line through the points; nothing for fewer than two.
    pub(super) fn line(&mut self, points: &[Point], stroke: Stroke<'_>) {
        if points.len() < 2 {
            return;
        }
        let mut line = Element::new("polyline");
        line.assign("points", corners(points));
        line.assign("fill", "none");
        line.assign("stroke", stroke.colour);
        line.assign("stroke-width", decimal(stroke.width));
        line.assign("stroke-linejoin", "round");
        line.assign("stroke-linecap", "round");
        if stroke.dashed {
            line.assign("stroke-dasharray", "2 6");
        }
        self.root.append(line);
    }

    /// A filled rectangle from its corner at the top left; `hint` is shown by browsers
    /// where the pointer rests.
    pub(super) fn rect(&mut self, at: Point, size: Point, fill: &str, hint: Option<&str>) {
        let mut rect = Element::new("rect");
        for (name, value) in [
            ("x", at.0),
            ("y", at.1),
            ("width", size.0),
            ("height", size.1),
        ] {
            rect.assign(name, decimal(value));
        }
        rect.assign("fill", fill);
        explain(&mut rect, hint);
        self.root.append(rect);
    }

    /// The outline of a rectangle.
    pub(super) fn outline(&mut self, at: Point, size: Point, stroke: Stroke<'_>) {
        let ((left, top), (right, bottom)) = (at, (at.0 + size.0, at.1 + size.1));
        let corners = [(left, top), (right, top), (right, bottom), (left, bottom)];
        self.line(&[&corners[..], &corners[..1]].concat(), stroke);
    }

    /// A fill of slanted stripes in these colours, in turn, with white between them.
    pub(super) fn stripes(&mut self, colours: &[&str]) -> String {
        let names: Vec<&str> = colours.iter().map(|c| c.trim_start_matches('#')).collect();
        let id = format!("stripes-{}", names.join("-"));
        if self.fills.insert(id.clone()) {
            let width = STRIPE * colours.len() as f64;
            let mut pattern = Element::new("pattern");
            pattern.assign("id", id.as_str());
            pattern.assign("patternUnits", "userSpaceOnUse");
            pattern.assign("patternTransform", "rotate(45)");
            pattern.assign("width", decimal(width));
            pattern.assign("height", decimal(STRIPE));
            let grounds = [(WHITE, 0.0, width)].into_iter();
            let stripes = (0..).zip(colours).map(|(index, colour)| {
                let left = STRIPE * f64::from(index);
                (*colour, left, STRIPE - STRIPE_GAP)
            });
            for (colour, left, wide) in grounds.chain(stripes) {
                let mut rect = Element::new("rect");
                rect.assign("x", decimal(left));
                rect.assign("width", decimal(wide));
                rect.assign("height", decimal(STRIPE));
                rect.assign("fill", colour);
                pattern.append(rect);
            }
            self.root.append(pattern);
        }
        format!("url(#{id})")
    }

    pub(super) fn mark(&mut self, at: Point, mark: Mark<'_>, hint: Option<&str>) {
        let (x, y) = at;
        let r = mark.radius;
        let around = |angles: &[(f64, f64)]| -> Vec<Point> {
            let place = |&(turn, reach): &(f64, f64)| {
                let (sin, cos) = (turn * std::f64::consts::TAU).sin_cos();
                (x + reach * r * sin, y - reach * r * cos)
            };
            angles.iter().map(place).collect()
        };
        let polygon = |points: &[Point]| {
            let mut polygon = Element::new("polygon");
            polygon.assign("points", corners(points));
            polygon
        };
        let mut shape = match mark.shape {
            Shape::Circle => {
                let mut circle = Element::new("circle");
                circle.assign("cx", decimal(x));
                circle.assign("cy", decimal(y));
                circle.assign("r", decimal(r));
                circle
            }
            Shape::Triangle => polygon(&around(&[(0.0, 1.25), (0.333, 1.25), (0.667, 1.25)])),
            Shape::Diamond => polygon(&around(&[(0.0, 1.3), (0.25, 1.1), (0.5, 1.3), (0.75, 1.1)])),
            Shape::Square => polygon(&around(&[
                (0.125, 1.3),
                (0.375, 1.3),
                (0.625, 1.3),
                (0.875, 1.3),
            ])),
            Shape::Star => {
                let tip = |i: u8| {
                    (
                        f64::from(i) / 10.0,
                        if i.is_multiple_of(2) { 1.5 } else { 0.65 },
                    )
                };
                polygon(&around(&(0..10).map(tip).collect::<Vec<_>>()))
            }
            Shape::Cross => {
                let (arm, end) = (0.45 * r, 1.25 * r);
                let quarter = [(arm, -end), (arm, -arm), (end, -arm)];
                let turned = |turns: usize| {
                    quarter.map(|corner| {
                        let (dx, dy) = (0..turns).fold(corner, |(dx, dy), _| (-dy, dx));
                        (x + dx, y + dy)
                    })
                };
                polygon(&(0..4).flat_map(turned).collect::<Vec<_>>())
            }
        };
        shape.assign("fill", if mark.hollow { WHITE } else { mark.colour });
        let edge = if mark.hollow { mark.colour } else { WHITE };
        shape.assign("stroke", edge);
        shape.assign("stroke-width", if mark.hollow { "2.2" } else { "1.2" });
        shape.assign("stroke-linejoin", "round");
        explain(&mut shape, hint);
        self.root.append(shape);
    }

    /// A text whose baseline is at the point.
    pub(super) fn text(&mut self, at: Point, text: &str, style: Style<'_>) {
        let mut element = Element::new("text");
        element.assign("x", decimal(at.0));
        element.assign("y", decimal(at.1));
        element.assign("font-size", decimal(style.size));
        element.assign("fill", style.colour);
        match style.anchor {
            Anchor::Start => {}
            Anchor::Middle => element.assign("text-anchor", "middle"),
            Anchor::End => element.assign("text-anchor", "end"),
        }
        if style.bold {
            element.assign("font-weight", "600");
        }
        element.append(Text::new(readable(text)));
        self.root.append(element);
    }

    /// The file's text.
    pub(super) fn finish(self) -> String {
        format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n{}\n",
            self.root
        )
    }
}

/// The width of a text in pixels, roughly: fonts differ, and none is at hand.
pub(super) fn width_of(text: &str, size: f64) -> f64 {
    let em = |c: char| match c {
        'i' | 'j' | 'l' | '.' | ',' | ':' | ';' | '\'' | '|' | '!' | ' ' | 'I' => 0.32,
        'f' | 'r' | 't' | '(' | ')' | '-' | '/' => 0.41,
        'm' | 'w' | 'M' | 'W' | '%' => 0.9,
        'A'..='Z' => 0.71,
        _ => 0.61,
    };
    text.chars().map(em).sum::<f64>() * size
}

/// The text cut to a width, with an ellipsis where something was cut.
pub(super) fn fitted(text: &str, size: f64, width: f64) -> String {
    if width_of(text, size) <= width {
        return text.to_owned();
    }
    let mut kept = String::new();
    for c in text.chars() {
        kept.push(c);
        if width_of(&kept, size) > width - size {
            break;
        }
    }
    kept.pop();
    kept.push('\u{2026}');
    kept
}

fn explain(element: &mut Element, hint: Option<&str>) {
    if let Some(hint) = hint {
        let mut title = Element::new("title");
        title.append(Text::new(readable(hint)));
        element.append(title);
    }
}

/// Characters that no XML file may hold are shown as the sign for that.
fn readable(text: &str) -> String {
    let shown = |c: char| match c {
        '\u{fffe}' | '\u{ffff}' => char::REPLACEMENT_CHARACTER,
        c if c.is_control() => char::REPLACEMENT_CHARACTER,
        c => c,
    };
    text.chars().map(shown).collect()
}

fn corners(points: &[Point]) -> String {
    let pairs = points
        .iter()
        .map(|(x, y)| format!("{},{}", decimal(*x), decimal(*y)));
    pairs.collect::<Vec<_>>().join(" ")
}

fn decimal(value: f64) -> String {
    let text = format!("{value:.1}");
    // A negative zero would tell equal pictures apart.
    match text.strip_suffix(".0").unwrap_or(&text) {
        "-0" => "0".to_owned(),
        kept => kept.to_owned(),
    }
}
