use super::{CLASSES, image_of};
use crate::network::{BatchNorm, Conv, Network, Padding, Pool, Value};

const NORM: BatchNorm = BatchNorm {
    epsilon: 1e-3,
    scale: 1.0,
};

/// Normal cells between two reductions: the "6" of NASNet-A (6 @ 4032).
const REPEATS: u64 = 6;

/// Channels of a normal cell's parts before the first reduction. The last cells have four
/// times as many in each of six parts: the "4032".
const FILTERS: u64 = 168;

/// Builds NASNet-A-Large without its auxiliary head, for images of 331x331.
///
/// # Source
/// Zoph et al. 2018, NASNet-A (6 @ 4032) of table 2. The layers are those of the authors'
/// release and of Keras; of the parameters the paper gives one decimal (88.9 M) and Keras
/// all digits.
pub(crate) fn nasnet_a_large() -> Network {
    let mut net = Network::new("nasnet_a_large");
    let x = image_of(&mut net, 331);
    let x = net.conv("stem_conv", &x, Conv::new(96, 3, 2).unpadded());
    let stem = net.batch_norm("stem_bn", &x, NORM);
    let mut before = reduction(&mut net, "stem_1", &stem, &stem, FILTERS / 4);
    let mut x = reduction(&mut net, "stem_2", &before, &stem, FILTERS / 2);
    let mut cell = 0;
    for stage in 0..3 {
        let filters = FILTERS << stage;
        if stage > 0 {
            // What is before stays: the next cell looks past the reduction's input.
            x = reduction(
                &mut net,
                &format!("reduction_{stage}"),
                &x,
                &before,
                filters,
            );
        }
        for _ in 0..REPEATS {
            let next = normal(&mut net, &format!("cell_{cell}"), &x, &before, filters);
            (before, x) = (x, next);
            cell += 1;
        }
    }
    let x = net.relu("relu", &x);
    let x = net.global_average_pool("avgpool", &x);
    let x = net.linear("fc", &x, CLASSES);
    net.output("output", &x);
    net
}

/// Adds a normal cell: figure 4 of the paper, left.
fn normal(net: &mut Network, name: &str, x: &Value, before: &Value, filters: u64) -> Value {
    let p = adjust(net, &format!("{name}.adjust"), before, x, filters);
    let h = project(net, &format!("{name}.project"), x, filters);
    let mut cell = Cell { net, name, filters };
    let (left, right) = (
        cell.separable("left1", &h, 5, 1),
        cell.separable("right1", &p, 3, 1),
    );
    let first = cell.add("add1", &left, &right);
    let (left, right) = (
        cell.separable("left2", &p, 5, 1),
        cell.separable("right2", &p, 3, 1),
    );
    let second = cell.add("add2", &left, &right);
    let left = cell.average("left3", &h, 1);
    let third = cell.add("add3", &left, &p);
    let (left, right) = (cell.average("left4", &p, 1), cell.average("right4", &p, 1));
    let fourth = cell.add("add4", &left, &right);
    let left = cell.separable("left5", &h, 3, 1);
    let fifth = cell.add("add5", &left, &h);
    let parts = [p, first, second, third, fourth, fifth];
    net.concat(&format!("{name}.concat"), &parts)
}

/// Adds a reduction cell, which halves the sides: figure 4 of the paper, right.
fn reduction(net: &mut Network, name: &str, x: &Value, before: &Value, filters: u64) -> Value {
    let p = adjust(net, &format!("{name}.adjust"), before, x, filters);
    let h = project(net, &format!("{name}.project"), x, filters);
    let mut cell = Cell { net, name, filters };
    let (left, right) = (
        cell.separable("left1", &h, 5, 2),
        cell.separable("right1", &p, 7, 2),
    );
    let first = cell.add("add1", &left, &right);
    let (left, right) = (cell.max("left2", &h), cell.separable("right2", &p, 7, 2));
    let second = cell.add("add2", &left, &right);
    let (left, right) = (
        cell.average("left3", &h, 2),
        cell.separable("right3", &p, 5, 2),
    );
    let third = cell.add("add3", &left, &right);
    let left = cell.average("left4", &first, 1);
    let fourth = cell.add("add4", &left, &second);
    let (left, right) = (
        cell.separable("left5", &first, 3, 1),
        cell.max("right5", &h),
    );
    let fifth = cell.add("add5", &left, &right);
    net.concat(&format!("{name}.concat"), &[second, third, fourth, fifth])
}

/// Gives what the cell before read the channels and sides of what this cell reads.
///
/// The first cell reads the stem twice, as it is.
fn adjust(net: &mut Network, name: &str, before: &Value, x: &Value, filters: u64) -> Value {
    if before.name == x.name {
        return before.clone();
    }
    if before.dims[2] == x.dims[2] {
        if before.channels() == filters {
            return before.clone();
        }
        return project(net, name, before, filters);
    }
    // Half of the channels see the even positions and half the odd ones.
    let before = net.relu(&format!("{name}.relu"), before);
    let shifted = net.shift(&format!("{name}.shift"), &before);
    let pool = Pool {
        kernel: 1,
        stride: 2,
        padding: [0; 4],
        ceil: false,
    };
    let halves = [(1, &before), (2, &shifted)].map(|(path, x)| {
        let x = net.average_pool(&format!("{name}.pool{path}"), x, pool, false);
        net.conv(
            &format!("{name}.conv{path}"),
            &x,
            Conv::new(filters / 2, 1, 1),
        )
    });
    let x = net.concat(&format!("{name}.concat"), &halves);
    net.batch_norm(&format!("{name}.bn"), &x, NORM)
}

/// Adds a ReLU, a 1x1 convolution and a batch normalisation.
fn project(net: &mut Network, name: &str, x: &Value, filters: u64) -> Value {
    let x = net.relu(&format!("{name}.relu"), x);
    let x = net.conv(&format!("{name}.conv"), &x, Conv::new(filters, 1, 1));
    net.batch_norm(&format!("{name}.bn"), &x, NORM)
}

/// A cell under construction.
struct Cell<'a> {
    net: &'a mut Network,
    name: &'a str,
    filters: u64,
}

impl Cell<'_> {
    /// Adds two separable convolutions, the first with the stride.
    fn separable(&mut self, name: &str, x: &Value, kernel: u64, stride: u64) -> Value {
        let mut x = x.clone();
        for (part, stride) in [(1, stride), (2, 1)] {
            let name = format!("{}.{name}.separable{part}", self.name);
            x = self.net.relu(&format!("{name}.relu"), &x);
            let depthwise = Conv {
                padding: same(x.side(), kernel, stride),
                groups: x.channels(),
                ..Conv::new(x.channels(), kernel, stride)
            };
            x = self.net.conv(&format!("{name}.depthwise"), &x, depthwise);
            let pointwise = Conv::new(self.filters, 1, 1);
            x = self.net.conv(&format!("{name}.pointwise"), &x, pointwise);
            x = self.net.batch_norm(&format!("{name}.bn"), &x, NORM);
        }
        x
    }

    fn average(&mut self, name: &str, x: &Value, stride: u64) -> Value {
        let name = format!("{}.{name}.average", self.name);
        self.net.average_pool(&name, x, pool(x, stride), false)
    }

    fn max(&mut self, name: &str, x: &Value) -> Value {
        let name = format!("{}.{name}.max", self.name);
        self.net.max_pool(&name, x, pool(x, 2))
    }

    fn add(&mut self, name: &str, a: &Value, b: &Value) -> Value {
        self.net.add(&format!("{}.{name}", self.name), a, b)
    }
}

fn pool(x: &Value, stride: u64) -> Pool {
    Pool {
        kernel: 3,
        stride,
        padding: same(x.side(), 3, stride),
        ceil: false,
    }
}

/// TensorFlow's padding "SAME": `ceil(side / stride)` positions, and where the padding is
/// odd, more of it below and to the right.
fn same(side: u64, kernel: u64, stride: u64) -> Padding {
    let covered = (side.div_ceil(stride) - 1) * stride + kernel;
    let padding = covered.saturating_sub(side);
    let (before, after) = (padding / 2, padding.div_ceil(2));
    [before, before, after, after]
}
