"""Launch of several processes: their environment, the store that connects them, the agent that starts them, their failures."""
