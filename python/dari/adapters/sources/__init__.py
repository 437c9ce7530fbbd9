"""Where the rows of knowledge bases are fetched from: files, web servers, object stores."""
