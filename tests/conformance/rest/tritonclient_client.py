"""Classify a picture with the client of Triton, and print the labels as JSON.

The script then checks that the client can send two pictures to a model with named inputs.

Arguments: the gateway's URL and the path of the picture. The interpreter must have
tritonclient[http].
"""

import base64
import json
import sys
from pathlib import Path

import numpy as np
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException


def main(url: str, picture: str) -> None:
    client = triton.InferenceServerClient(url.removeprefix("http://"), network_timeout=60)
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("classifier")
    assert client.is_model_ready("classifier", "1")
    assert client.get_server_metadata()["extensions"] == ["binary_tensor_data"]
    metadata = client.get_model_metadata("classifier")
    data = Path(picture).read_bytes()
    answers = []
    # Send the picture as binary, which is the client's default, and then as Base64 in JSON.
    for elements, is_binary in (([data, data], True), ([base64.b64encode(data)], False)):
        tensor = np.array(elements, dtype=np.object_)
        given = triton.InferInput(metadata["inputs"][0]["name"], tensor.shape, "BYTES")
        given.set_data_from_numpy(tensor, binary_data=is_binary)
        wanted = [
            triton.InferRequestedOutput(name, binary_data=is_binary)
            for name in ("labels", "scores")
        ]
        for outputs in (wanted, None):
            result = client.infer("classifier", [given], outputs=outputs, request_id="mine")
            assert result.get_response()["id"] == "mine"
            scores, labels = result.as_numpy("scores"), result.as_numpy("labels")
            assert scores.shape == labels.shape == (len(elements), 5)
            assert scores.dtype == np.float32
            answers += [[_text(label) for label in row] for row in labels]
    refusal = refused(client, "clasifier", [given])
    assert refusal.status() == "404"
    assert "classifier" in refusal.message()
    compare(client, data)
    sys.stdout.write(json.dumps(answers))


def compare(client: triton.InferenceServerClient, data: bytes) -> None:
    """Send the same picture as the first input and as a named input to the model `differ`.

    Check that the model finds no difference.
    """
    described = client.get_model_metadata("differ")["inputs"]
    assert [each["name"] for each in described] == ["image", "other", "weights"]
    for elements, is_binary in (([data, data], True), ([base64.b64encode(data)], False)):
        pictures = np.array(elements, dtype=np.object_)
        given = [make_input(name, pictures, "BYTES", is_binary) for name in ("image", "other")]
        result = client.infer("differ", given).as_numpy("result")
        assert [json.loads(_text(each)) for each in result] == [[0, 0, 0]] * len(elements)
    weights = make_input("weights", np.ones(3, dtype=np.float32), "FP32", is_binary=True)
    result = client.infer("differ", [weights, *given]).as_numpy("result")
    assert json.loads(_text(result[0])) == [0, 0, 0]
    refusal = refused(client, "differ", given[:1])
    assert refusal.status() == "422"
    assert "inputs.other: differ needs this input" in refusal.message()


def make_input(name: str, tensor: np.ndarray, datatype: str, is_binary: bool) -> triton.InferInput:
    given = triton.InferInput(name, tensor.shape, datatype)
    given.set_data_from_numpy(tensor, binary_data=is_binary)
    return given


def refused(
    client: triton.InferenceServerClient, model: str, given: list[triton.InferInput]
) -> InferenceServerException:
    try:
        client.infer(model, given)
    except InferenceServerException as refusal:
        return refusal
    raise AssertionError("the gateway accepted a request that is not valid")


def _text(label: object) -> str:
    return label.decode() if isinstance(label, bytes) else str(label)


if __name__ == "__main__":
    main(*sys.argv[1:])
