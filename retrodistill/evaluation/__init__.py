"""What a ranking is worth: metrics, BEIR's protocol, significance, and the page that shows them."""
