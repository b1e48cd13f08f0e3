"""What speaks HTTP: chat, pictures and rewards, with limits, retries, a journal and a bill."""
