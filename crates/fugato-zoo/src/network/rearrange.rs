//! The operators that move channels and positions.

use super::{Dim, Network, Value};
use fugato_onnx::proto::AttributeProto;
use fugato_onnx::{NodeProto, TensorProto};

impl Network {
    /// Splits an image value into the first and the second half of its channels.
    pub(crate) fn halve(&mut self, name: &str, x: &Value) -> [Value; 2] {
        let half = x.size(1) / 2;
        let sizes = [half as i64; 2];
        let sizes = TensorProto::from_i64s(format!("halves_of_{half}"), &[2], &sizes);
        let sizes = self.constant(sizes);
        let outputs = ["first", "second"].map(|part| format!("{name}.{part}"));
        let names = outputs.each_ref().map(String::as_str);
        let node = NodeProto::new(name, "Split", &[&x.name, &sizes], &names);
        self.nodes
            .push(node.with(vec![AttributeProto::int("axis", 1)]));
        outputs.map(|output| {
            let mut half_of_x = x.clone();
            half_of_x.name = output;
            half_of_x.dims[1] = Dim::Size(half);
            half_of_x
        })
    }

    /// Takes one channel of each of `groups` groups in turn.
    pub(crate) fn shuffle(&mut self, name: &str, x: &Value, groups: u64) -> Value {
        let [channels, height, width] = [1, 2, 3].map(|axis| x.size(axis));
        let grouped = [0, groups, channels / groups, height, width];
        let y = self.reshape(&format!("{name}.group"), x, &grouped);
        let y = self.transpose(&format!("{name}.swap"), &y, &[0, 2, 1, 3, 4]);
        let y = self.reshape(&format!("{name}.join"), &y, &[0, channels, height, width]);
        Value {
            name: y.name,
            ..x.clone()
        }
    }

    /// Moves an image one position up and to the left; zeros come in.
    ///
    /// The padding comes first: ONNX Runtime joins one to a pooling that follows, and then
    /// refuses the pooling for a padding that is as large as its window.
    pub(crate) fn shift(&mut self, name: &str, x: &Value) -> Value {
        let list = |name: &str, values: &[i64]| {
            TensorProto::from_i64s(name, &[values.len() as i64], values)
        };
        let padding = self.constant(list("one_below_and_right", &[0, 0, 0, 0, 0, 0, 1, 1]));
        let starts = self.constant(list("second_position", &[1, 1]));
        let ends = self.constant(list("last_position", &[i64::MAX; 2]));
        let axes = self.constant(list("image_axes", &[2, 3]));
        let [height, width] = [2, 3].map(|axis| Dim::Size(x.size(axis) + 1));
        let larger = vec![x.dims[0], x.dims[1], height, width];
        let inputs = [x.name.as_str(), &padding];
        let padded = self.node(&format!("{name}.pad"), "Pad", &inputs, Vec::new(), larger);
        let inputs = [padded.name.as_str(), &starts, &ends, &axes];
        let crop = format!("{name}.crop");
        let y = self.node(&crop, "Slice", &inputs, Vec::new(), x.dims.clone());
        Value {
            name: y.name,
            ..x.clone()
        }
    }
}
