# The tracking server and model registry: MLflow of the clients' version, passwords, the driver for PostgreSQL
# (SQLAlchemy 2.1 takes psycopg 3 for a plain postgresql:// address), and what --expose-prometheus needs.
ARG PYTHON_DIGEST=
FROM python:3.12-slim${PYTHON_DIGEST}
RUN pip install --no-cache-dir "mlflow[auth]==3.17.2" "pyarrow==25.0.1" "boto3==1.44.5" "psycopg[binary]==3.3.9" \
        "prometheus-flask-exporter==0.23.2" \
    && useradd --create-home mlflow
USER mlflow
WORKDIR /home/mlflow
