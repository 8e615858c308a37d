use super::{CLASSES, EPSILON, conv_norm, image};
use crate::network::{BatchNorm, Conv, Network, Value};
use wiring::Wiring;

mod wiring;

const NORM: BatchNorm = BatchNorm {
    epsilon: EPSILON,
    scale: 1.0,
};

/// Seed of the graphs. They are part of the model: the weights' seed changes none.
const GRAPH_SEED: u64 = 0;

/// Channels of the first random stage: the paper's C.
const CHANNELS: u64 = 109;

/// Nodes of a stage, the paper's N; the first has half as many.
const NODES: usize = 32;

/// Builds RandWire-WS: stages of 16, 32, 32 and 32 nodes that are wired at random.
///
/// The graphs are random ones of the paper's family, drawn here and not the authors': they
/// have as many nodes and edges, which lead elsewhere. Parameters and multiply-adds vary
/// with them by some per cent, because a node that reads the stage's input is smaller.
///
/// # Source
/// Xie et al. 2019, WS(4, 0.75) with N = 32 and C = 109, the regular regime of table 1. A
/// node's weights on its inputs are given as they are past the sigmoid; a node of one
/// input has none. The ReLU before the last pooling is ours: the paper does not say.
pub(crate) fn randwire_ws() -> Network {
    build(GRAPH_SEED)
}

fn build(graph_seed: u64) -> Network {
    let mut net = Network::new("randwire_ws");
    let x = image(&mut net);
    let mut x = conv_norm(
        &mut net,
        ("conv1", "bn1"),
        &x,
        Conv::new(CHANNELS / 2, 3, 2),
    );
    for (stage, nodes) in [(2, NODES / 2), (3, NODES), (4, NODES), (5, NODES)] {
        let wiring = Wiring::watts_strogatz(graph_seed, stage, nodes);
        let channels = CHANNELS << (stage - 2);
        x = random_stage(&mut net, &format!("conv{stage}"), &x, &wiring, channels);
    }
    let x = net.relu("classifier.relu1", &x);
    let names = ("classifier.conv", "classifier.bn");
    let x = conv_norm(&mut net, names, &x, Conv::new(1280, 1, 1));
    let x = net.relu("classifier.relu2", &x);
    let x = net.global_average_pool("avgpool", &x);
    let x = net.linear("fc", &x, CLASSES);
    net.output("output", &x);
    net
}

/// Adds a stage that halves the sides: nodes that nothing leads to read `x`, and the
/// stage gives the mean of the nodes that lead to nothing.
fn random_stage(net: &mut Network, name: &str, x: &Value, wiring: &Wiring, channels: u64) -> Value {
    let mut made: Vec<Value> = Vec::with_capacity(wiring.sources.len());
    for (index, sources) in wiring.sources.iter().enumerate() {
        let name = format!("{name}.node{index}");
        let sources: Vec<Value> = sources.iter().map(|&from| made[from].clone()).collect();
        let node = match sources.as_slice() {
            [] => separable(net, &name, x, Conv::new(channels, 3, 2)),
            [one] => separable(net, &name, one, Conv::new(channels, 3, 1)),
            several => {
                let sum = net.weighted_sum(&format!("{name}.sum"), several);
                separable(net, &name, &sum, Conv::new(channels, 3, 1))
            }
        };
        made.push(node);
    }
    let last: Vec<Value> = wiring.ends().map(|index| made[index].clone()).collect();
    net.mean(&format!("{name}.mean"), &last)
}

/// Adds a ReLU, a separable convolution and a batch normalisation.
fn separable(net: &mut Network, name: &str, x: &Value, conv: Conv) -> Value {
    let x = net.relu(&format!("{name}.relu"), x);
    let depthwise = Conv {
        channels: x.channels(),
        groups: x.channels(),
        ..conv
    };
    let x = net.conv(&format!("{name}.depthwise"), &x, depthwise);
    let pointwise = Conv::new(conv.channels, 1, 1);
    let x = net.conv(&format!("{name}.pointwise"), &x, pointwise);
    net.batch_norm(&format!("{name}.bn"), &x, NORM)
}

#[cfg(test)]
mod tests {
    use super::{GRAPH_SEED, build};

    /// The paper gives means over random graphs, of 31.9 million parameters and 4.0 billion
    /// multiply-adds. How far ours may be off is our choice: the paper's halves of channels
    /// and the layers around the graphs leave room for that much.
    #[test]
    fn sizes_over_many_graphs_are_the_published_ones() {
        let sizes = |seed| {
            let net = build(seed);
            let (parameters, work) = (net.parameters(), net.multiply_adds(1, 1));
            [parameters as f64 / 1e6, work as f64 / 1e9]
        };
        let many: Vec<[f64; 2]> = (0..100).map(sizes).collect();
        let mean = |of: usize| many.iter().map(|size| size[of]).sum::<f64>() / 100.0;
        for (of, published) in [31.9, 4.0].into_iter().enumerate() {
            let off = |size: f64| (size / published - 1.0).abs();
            assert!(off(mean(of)) < 0.01, "{} of {published}", mean(of));
            let one = sizes(GRAPH_SEED)[of];
            assert!(off(one) < 0.02, "{one} of {published}");
        }
    }
}
