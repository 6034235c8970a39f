"""Call SarmaLink, a hosted service whose models are named by their purpose (`smart`)."""

from app.backends.base import Backend


class SarmalinkBackend(Backend):
    type = "sarmalink"
    default_endpoint = "https://api.sarmalink.ai/v1"
    default_models = ("smart",)
    default_key_env = "SARMALINK_API_KEY"
