//! What is done as a model is loaded.

use super::*;

#[test]
fn all_slots_of_a_batch_are_warmed_before_the_next_batch() {
    let rig = Rig::with(vec![model("m", 4)]);
    let rows = |line: &String| {
        let run = line.strip_prefix("ran: m.onnx x")?;
        Some(run.split(' ').next()?.to_owned())
    };
    let mut order: Vec<_> = rig.fake.log().iter().filter_map(rows).collect();
    // Two slots, an eager run and a captured one each.
    assert_eq!(
        order.iter().filter(|rows| *rows == "2").count(),
        4,
        "{order:?}"
    );
    order.dedup();
    assert_eq!(order, ["1", "2", "4"], "each batch's plans are made once");
}
