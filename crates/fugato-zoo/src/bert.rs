//! BERT encoders, with the names of the published checkpoints.
//!
//! Inputs `input_ids`, `attention_mask` and `token_type_ids`, int64 [batch, sequence];
//! outputs `last_hidden_state` [batch, sequence, hidden] and `pooler_output`
//! [batch, hidden].

use crate::network::{Dim, Network, Value};
use fugato_onnx::DataType;

/// Words of the uncased English vocabulary.
pub(crate) const VOCABULARY: u64 = 30_522;

/// Longest sequence.
pub(crate) const POSITIONS_MAX: u64 = 512;

/// Sorts of tokens: first and second sentence.
pub(crate) const TOKEN_TYPES: u64 = 2;

const EPSILON: f32 = 1e-12;

/// Sizes of an encoder.
struct Bert {
    layers: u64,
    hidden: u64,
    heads: u64,
}

/// Builds BERT-base (uncased) with its pooler.
///
/// # Source
/// Devlin et al. 2019.
pub(crate) fn bert_base() -> Network {
    let bert = Bert {
        layers: 12,
        hidden: 768,
        heads: 12,
    };
    bert.build("bert-base")
}

/// Builds a BERT of 2 layers of width 128, with its pooler.
///
/// # Source
/// BERT-Tiny of Turc et al. 2019.
pub(crate) fn bert_tiny() -> Network {
    let bert = Bert {
        layers: 2,
        hidden: 128,
        heads: 2,
    };
    bert.build("bert-tiny")
}

impl Bert {
    fn build(&self, name: &str) -> Network {
        let mut net = Network::new(name);
        let [ids, mask, types] = ["input_ids", "attention_mask", "token_type_ids"]
            .map(|name| net.input(name, DataType::Int64, &[Dim::Batch, Dim::Sequence]));
        let mask = net.attention_mask("attention_bias", &mask);
        let mut x = self.embeddings(&mut net, &ids, &types);
        for layer in 0..self.layers {
            let name = format!("encoder.layer.{layer}");
            let attended = self.attention(&mut net, &format!("{name}.attention"), &x, &mask);
            x = self.feed_forward(&mut net, &name, &attended);
        }
        let first = net.first_token("pooler.first", &x);
        let pooled = net.dense("pooler.dense", &first, self.hidden);
        let pooled = net.unary("pooler.activation", "Tanh", &pooled);
        net.output("last_hidden_state", &x);
        net.output("pooler_output", &pooled);
        net
    }

    fn embeddings(&self, net: &mut Network, ids: &Value, types: &Value) -> Value {
        let name = |part: &str| format!("embeddings.{part}");
        let words = net.embedding(&name("word_embeddings"), ids, VOCABULARY, self.hidden);
        let types = net.embedding(
            &name("token_type_embeddings"),
            types,
            TOKEN_TYPES,
            self.hidden,
        );
        let places = net.positions(
            &name("position_embeddings"),
            ids,
            POSITIONS_MAX,
            self.hidden,
        );
        let x = net.add(&name("add_types"), &words, &types);
        let x = net.add(&name("add_positions"), &x, &places);
        net.layer_norm(&name("LayerNorm"), &x, EPSILON)
    }

    fn attention(&self, net: &mut Network, name: &str, x: &Value, mask: &Value) -> Value {
        let width = self.hidden / self.heads;
        let mut heads = |part: &str, order: [usize; 4]| {
            let name = format!("{name}.self.{part}");
            let y = net.dense(&name, x, self.hidden);
            let y = net.reshape(&format!("{name}.heads"), &y, &[0, 0, self.heads, width]);
            net.transpose(&format!("{name}.transpose"), &y, &order)
        };
        let query = heads("query", [0, 2, 1, 3]);
        let key = heads("key", [0, 2, 3, 1]);
        let value = heads("value", [0, 2, 1, 3]);
        let scores = net.matmul(&format!("{name}.self.scores"), &query, &key);
        let root = net.scalar("sqrt_head", (width as f32).sqrt());
        let scores = net.binary(&format!("{name}.self.scale"), "Div", &scores, &root);
        let scores = net.binary(&format!("{name}.self.mask"), "Add", &scores, mask);
        let weights = net.softmax(&format!("{name}.self.softmax"), &scores);
        let y = net.matmul(&format!("{name}.self.context"), &weights, &value);
        let y = net.transpose(&format!("{name}.self.merge"), &y, &[0, 2, 1, 3]);
        let y = net.reshape(&format!("{name}.self.output"), &y, &[0, 0, self.hidden]);
        let y = net.dense(&format!("{name}.output.dense"), &y, self.hidden);
        let y = net.add(&format!("{name}.output.add"), &y, x);
        net.layer_norm(&format!("{name}.output.LayerNorm"), &y, EPSILON)
    }

    fn feed_forward(&self, net: &mut Network, name: &str, x: &Value) -> Value {
        let y = net.dense(&format!("{name}.intermediate.dense"), x, 4 * self.hidden);
        let y = net.gelu(&format!("{name}.intermediate.gelu"), &y);
        let y = net.dense(&format!("{name}.output.dense"), &y, self.hidden);
        let y = net.add(&format!("{name}.output.add"), &y, x);
        net.layer_norm(&format!("{name}.output.LayerNorm"), &y, EPSILON)
    }
}
