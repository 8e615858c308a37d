//! What the server is asked.

/// Bytes of the tensor in a batch of 8 images.
pub(crate) const IMAGES_BYTES: f64 = (8 * 3 * 224 * 224 * 4) as f64;

/// A batch of images for `resnet18`, slow enough to be caught in flight.
pub(crate) fn images(items: usize) -> (String, Vec<u8>) {
    let bytes = items * 3 * 224 * 224 * 4;
    let json = format!(
        r#"{{"inputs":[{{"name":"input","shape":[{items},3,224,224],"datatype":"FP32","parameters":{{"binary_data_size":{bytes}}}}}]}}"#
    );
    let length = json.len().to_string();
    let mut body = json.into_bytes();
    body.resize(body.len() + bytes, 0);
    (length, body)
}

pub(crate) const RESNET: &str = "/v2/models/resnet18/infer";
pub(crate) const IDENTITY: &str = "/v2/models/identity/infer";
pub(crate) const ONE_FLOAT: &str =
    r#"{"inputs":[{"name":"input","shape":[1,1],"datatype":"FP32","data":[2.5]}]}"#;
