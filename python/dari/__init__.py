"""dari (다리, a bridge): keeps chatbots answering from a company's own data, whatever breaks behind it."""
