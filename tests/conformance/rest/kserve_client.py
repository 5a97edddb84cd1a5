"""Classify a picture with the client of kserve, and print the labels as JSON.

The script then checks that the client can send two pictures to a model with named inputs.

Arguments: the gateway's URL and the path of the picture. The interpreter must have kserve.
"""

import asyncio
import base64
import json
import sys
from pathlib import Path

import httpx
import numpy as np
from kserve import InferenceRESTClient, InferInput, InferRequest, RESTConfig


async def main(url: str, data: bytes) -> None:
    answers = []
    async with InferenceRESTClient(RESTConfig(protocol="v2")) as client:
        assert await client.is_server_live(url)
        assert await client.is_server_ready(url)
        assert await client.is_model_ready(url, "classifier")
        assert not await client.is_model_ready(url, "clasifier")
        for wants_binary in (False, True):
            for element in (data, base64.b64encode(data).decode()):
                given = InferInput("image", [1], "BYTES")
                tensor = np.array([element], dtype=np.object_)
                given.set_data_from_numpy(tensor, binary_data=isinstance(element, bytes))
                request = InferRequest(
                    "classifier", [given], parameters={"binary_data_output": wants_binary}
                )
                answer = await client.infer(url, request, "classifier")
                outputs = {output.name: output for output in answer.outputs}
                assert outputs["scores"].as_numpy().shape == (1, 5)
                answers.append([str(label) for label in outputs["labels"].data])
        refusal = await refused(client, url)
        assert refusal.response.status_code == 400
        assert "inputs" in str(refusal)
        await compare(client, url, data)
    sys.stdout.write(json.dumps(answers))


async def compare(client: InferenceRESTClient, url: str, data: bytes) -> None:
    """Send the same picture as the first input and as a named input to the model `differ`.

    Check that the model finds no difference.
    """
    given = []
    for name in ("image", "other"):
        given.append(InferInput(name, [1], "BYTES"))
        given[-1].set_data_from_numpy(np.array([data], dtype=np.object_), binary_data=True)
    given.append(InferInput("weights", [3], "FP32"))
    given[-1].set_data_from_numpy(np.ones(3, dtype=np.float32), binary_data=False)
    answer = await client.infer(url, InferRequest("differ", given), "differ")
    assert json.loads(answer.outputs[0].data[0]) == [0, 0, 0]


async def refused(client: InferenceRESTClient, url: str) -> httpx.HTTPStatusError:
    try:
        await client.infer(url, {"inputs": []}, "classifier")
    except httpx.HTTPStatusError as refusal:
        return refusal
    raise AssertionError("the gateway accepted an invalid request")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2]).read_bytes()))
