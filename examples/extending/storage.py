"""Use a storage of your own: python examples/extending/storage.py, which extracts to an S3-compatible server.

Every service that speaks S3 (MinIO, Ceph, R2, ...) is one by its endpoint alone: AWS_ENDPOINT_URL, and credentials by
the service's own chain. Here moto stands in for it. Another protocol is a scheme in kdcache/remote/url.py and the
client that obstore has for it in kdcache/remote/engine.py.
"""

import logging
import os

import kdcache

SETTINGS = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_REGION": "us-east-1",
    "AWS_ALLOW_HTTP": "true",
}


def main() -> None:
    """Extract some digits into a bucket, then stream them from there through the staging folder."""
    import boto3
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    os.environ.update(SETTINGS, AWS_ENDPOINT_URL=f"http://{host}:{port}")
    boto3.client("s3", endpoint_url=os.environ["AWS_ENDPOINT_URL"]).create_bucket(Bucket="caches")

    kdcache.extract(
        kdcache.ExtractConfig(
            out="s3://caches/digits",
            data="digits:train",
            limit=32,
            teacher="vit_tiny_patch16_224",
            teacher_weights="random",
            teacher_kwargs={"img_size": 16, "patch_size": 4, "depth": 2, "num_classes": 10},
        )
    )
    cache = kdcache.open_cache("s3://caches/digits")
    loader = kdcache.CacheLoader(cache, [cache.find_column(kind="patch")], kdcache.StreamConfig(batch_size=8))
    print(f"s3://caches/digits: {sum(len(batch.labels) for batch in loader)} views read back")
    server.stop()


if __name__ == "__main__":
    main()
