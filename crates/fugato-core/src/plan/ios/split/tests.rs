use super::*;
use crate::plan::tests::segments_of;

#[test]
fn a_model_is_cut_at_what_all_others_wait_for() {
    // 0 -> {1, 2} -> 3 -> {4, 5} -> 6: the fork, the joins, and what is between.
    let two = segments_of(&[&[], &[0], &[0], &[1, 2], &[3], &[3], &[4, 5]]);
    assert_eq!(blocks(&two, false), [0..1, 1..3, 3..4, 4..6, 6..7]);
    // A tensor past the first join leaves it a waist: 6 waits for 3 anyway.
    let skip = segments_of(&[&[], &[0], &[0], &[1, 2], &[3], &[3], &[4, 5, 0]]);
    assert_eq!(blocks(&skip, false), [0..1, 1..3, 3..4, 4..6, 6..7]);
    // A segment beside all others leaves none.
    let beside = segments_of(&[&[], &[0], &[0], &[1, 2], &[]]);
    assert_eq!(blocks(&beside, false), vec![0..5; 1]);
    assert_eq!(blocks(&segments_of(&[]), false), []);
    // What joins others can be merged with them.
    assert_eq!(blocks(&two, true), [0..1, 1..4, 4..7]);
    assert_eq!(blocks(&beside, true), vec![0..5; 1]);
    assert_eq!(blocks(&segments_of(&[]), true), []);
}

#[test]
fn large_blocks_are_cut_where_the_fewest_are_waited_for() {
    // Two of {a, b, c -> join}, each reading both ends of the one before.
    let cells: [&[usize]; 10] = [
        &[],
        &[],
        &[0, 1],
        &[0, 1],
        &[0, 1],
        &[2, 3, 4],
        &[1, 5],
        &[1, 5],
        &[1, 5],
        &[6, 7, 8],
    ];
    let cuts = Cuts::new(&segments_of(&cells));
    assert_eq!(cuts.pending, [0, 1, 2, 3, 4, 4, 2, 3, 4, 3, 0]);
    assert_eq!(cuts.narrowest(0..10), 6);
    assert_eq!(cuts.narrowest(3..5), 4);
}
