"""The model that answers on this machine when nobody else can: a supervised child process around one engine.

    process       the supervisor in the server: an `Upstream` that survives its child
    child         the child's main: owns one engine, speaks `protocol` over a socket
    engines       llama.cpp of today (`xllamacpp`) and of 2023 (`ctransformers`) behind one interface
    chat_prompt   messages to token ids within a budget;  answer_text   pieces of bytes to clean text
    model_files   which files there are and how they get here;  model_header   what a file is by its bytes
    gguf_v2       rewrites a modern model file for the older engine

Nothing is imported here: the child loads only its own modules, so that it starts fast and stays small.
"""
