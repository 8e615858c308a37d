//! The pictures are read back as a viewer draws them.

use super::labels::ink_on;
use super::*;
use crate::timeline::tests::{device, exclusive, leg};
use roxmltree::Document;

fn draw(slices: u16, legs: &[TimelineLeg], window: Option<Range<Timestamp>>) -> String {
    let devices = [device(0, slices)];
    let models = BTreeMap::from([(ModelId(1), "<b>&\"alexnet\"".to_owned())]);
    let scene = Scene {
        simulated: true,
        what: "four models, saturated",
        devices: &devices,
        models: &models,
        legs,
        lost: 0,
    };
    space_time(&scene, "temporal", window).svg
}

/// Boxes with a hint, by their corners.
fn boxes(svg: &str) -> Vec<[f64; 4]> {
    let document = Document::parse(svg).expect("well-formed XML");
    let rects = document.descendants().filter(|node| {
        let hinted = node.children().any(|child| child.has_tag_name("title"));
        node.has_tag_name("rect") && hinted
    });
    let number = |node: roxmltree::Node<'_, '_>, name| -> f64 {
        node.attribute(name)
            .expect("there")
            .parse()
            .expect("a number")
    };
    rects
        .map(|node| {
            let [x, y] = ["x", "y"].map(|name| number(node, name));
            let [width, height] = ["width", "height"].map(|name| number(node, name));
            [x, y, x + width, y + height]
        })
        .collect()
}

#[test]
fn boxes_of_exclusive_legs_lie_on_the_page_and_apart() {
    for slices in [8, 80] {
        let boxes = boxes(&draw(slices, &exclusive(slices, 120), None));
        assert_eq!(boxes.len(), 120);
        for (index, one) in boxes.iter().enumerate() {
            assert!(one[0] >= LEFT - 0.1 && one[2] <= RIGHT + 0.6, "{one:?}");
            assert!(one[1] >= TOP && one[3] <= BOTTOM + 0.1, "{one:?}");
            let touches = |other: &&[f64; 4]| {
                one[0] + 0.2 < other[2]
                    && other[0] + 0.2 < one[2]
                    && one[1] + 0.2 < other[3]
                    && other[1] + 0.2 < one[3]
            };
            let touched = boxes[index + 1..].iter().find(touches);
            assert_eq!(touched, None, "{one:?}");
        }
    }
}

#[test]
fn slices_go_up_and_scattered_slices_are_several_boxes() {
    let low = leg(0, (0, 1), (0, 1_000));
    let mut scattered = leg(1, (3, 1), (0, 1_000));
    scattered.atoms = scattered.atoms.union(leg(1, (1, 1), (0, 1)).atoms);
    let svg = draw(4, &[low, scattered], None);
    let boxes = boxes(&svg);
    assert_eq!(boxes.len(), 3);
    assert!(boxes[0][1] > boxes[1][1] && boxes[1][1] > boxes[2][1]);
    assert!(svg.contains("SIMULATED") && svg.contains("&lt;b&gt;&amp;"));
}

/// The pixels from the lower end of a slice of a device of `slices` slices.
fn height_of(slices: u16, atom: u16) -> f64 {
    BOTTOM - (BOTTOM - TOP) / f64::from(slices) * f64::from(atom)
}

#[test]
fn boxes_of_legs_that_share_cover_their_slices_and_only_shared_ones_are_striped() {
    // As a mix of models whose knees need more than the device: slices 16 to 31 are shared.
    let below = leg(0, (0, 32), (0, 1_000));
    let above = leg(1, (16, 24), (250, 750));
    let svg = draw(80, &[below, above], None);
    let boxes = boxes(&svg);
    let expected = [
        (0, 32, 0.0, 1.0),
        (16, 40, 0.25, 0.75),
        (16, 32, 0.25, 0.75),
    ];
    assert_eq!(boxes.len(), expected.len(), "{svg}");
    for (found, (first, past, from, to)) in boxes.iter().zip(expected) {
        let x = |part: f64| LEFT + part * (RIGHT - LEFT);
        let place = [x(from), height_of(80, past), x(to), height_of(80, first)];
        for (found, place) in found.iter().zip(place) {
            assert!(
                (found - place).abs() <= 2.0 * INSET + 0.1,
                "{found} {place}"
            );
        }
    }
    let striped = svg.matches("fill=\"url(#stripes-").count();
    assert_eq!((striped, svg.matches("<pattern ").count()), (1, 1));
    // 32 slices all the time, 8 more half of it, of 80.
    assert!(svg.contains("Held in this picture: 45 %"), "{svg}");
    for leg in [&below, &above] {
        // Both have slices alone: no bar is needed.
        let number = format!(">{}</text>", leg.batch.0);
        assert_eq!(svg.matches(&number).count(), 1, "{number} in {svg}");
    }
}

#[test]
fn legs_that_share_all_they_have_are_each_labelled_apart() {
    let legs: Vec<TimelineLeg> = (0..3)
        .map(|model| TimelineLeg {
            batch: fugato_core::BatchSize(model + 5),
            ..leg(model, (0, 80), (0, 1_000))
        })
        .collect();
    let svg = draw(80, &legs, None);
    assert!(svg.contains("Held in this picture: 100 %"));
    // Three legs, what they share, and a bar for each.
    let boxes = boxes(&svg);
    assert_eq!(boxes.len(), 7, "{svg}");
    let mut bars = boxes[4..].to_vec();
    bars.sort_by(|one, other| one[1].total_cmp(&other[1]));
    assert!(
        bars.windows(2).all(|pair| pair[0][3] < pair[1][1]),
        "{bars:?}"
    );
    for number in ["5", "6", "7"] {
        assert_eq!(
            svg.matches(&format!(">{number}</text>")).count(),
            1,
            "{svg}"
        );
    }
}

#[test]
fn a_window_cuts_what_is_outside_it_and_says_so() {
    let legs = exclusive(8, 200);
    let window = Timestamp::from_nanos(20_000)..Timestamp::from_nanos(40_000);
    let svg = draw(8, &legs, Some(window));
    let inside = boxes(&svg).len();
    assert!((1..200).contains(&inside), "{inside}");
    assert!(svg.contains("20.0 us of "), "the part that is shown");
    let crowded = exclusive(8, 4_000);
    assert!(boxes(&draw(8, &crowded, None)).len() <= LEGS_MAX);
    let none = draw(4, &[], None);
    assert!(boxes(&none).is_empty());
}

#[test]
fn text_is_legible_on_every_colour() {
    assert_eq!(ink_on("#ffffff"), INK);
    assert_eq!(ink_on("#3b6fb6"), WHITE);
}

#[test]
fn a_task_that_ran_in_one_go_says_so_in_place_of_its_leg() {
    let in_legs = leg(0, (0, 40), (0, 1_000));
    let unsplit = TimelineLeg {
        unsplit: true,
        ..leg(1, (40, 40), (0, 1_000))
    };
    let svg = draw(80, &[in_legs, unsplit], None);
    let document = Document::parse(&svg).expect("well-formed XML");
    let hints = document
        .descendants()
        .filter(|node| node.has_tag_name("title"));
    let hints: Vec<&str> = hints.filter_map(|node| node.text()).collect();
    let says = |text: &str| hints.iter().any(|hint| hint.contains(text));
    assert!(
        says("task 0 leg 0: batch") && says("task 0 in one go: batch"),
        "{hints:?}"
    );
}
